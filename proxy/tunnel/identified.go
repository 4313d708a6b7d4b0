package tunnel

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// identified is the server's transport credentials: the connection is secure already,
// so all they do is to let a handler know which connection its stream came on.
type identified struct{}

// transportOf is the auth info of a stream.
type transportOf struct {
	credentials.CommonAuthInfo
	conn net.Conn
}

// AuthType is for gRPC's own use.
func (transportOf) AuthType() string { return "teleswap" }

func (identified) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	common := credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
	return conn, transportOf{CommonAuthInfo: common, conn: conn}, nil
}

func (identified) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("credentials of the agent used by a client")
}

func (identified) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "teleswap"}
}

func (i identified) Clone() credentials.TransportCredentials { return i }

func (identified) OverrideServerName(string) error { return nil }

// transport returns the connection that a stream came on, nil if it cannot be known.
func transport(ctx context.Context) net.Conn {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(transportOf)
	if !ok {
		return nil
	}
	return info.conn
}
