package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// ErrPingUnavailable is Ping's where the agent cannot send an echo at all: the pod has no
// right to, or the agent no way.
var ErrPingUnavailable = errors.New("the pod cannot ping")

// maxPing is the most that an echo carries.
const maxPing = 65507 // as a datagram: ICMP's header is as long as UDP's

// Ping sends one ICMP echo with the payload from the pod to dst and returns nil when the reply
// has come. Otherwise the error is ctx's, or a *net.OpError that wraps the syscall.Errno that
// the pod got (EHOSTUNREACH, ENETUNREACH, EMSGSIZE …), or it wraps ErrPingUnavailable.
// The agent waits for a reply as long as ctx lets it.
func (c *Client) Ping(ctx context.Context, dst netip.Addr, payload []byte) error {
	fail := func(err error) error {
		return &net.OpError{Op: "ping", Net: "ip", Addr: &net.IPAddr{IP: dst.AsSlice()}, Err: err}
	}
	dst = dst.Unmap()
	switch {
	case !dst.IsValid():
		return fail(syscall.EINVAL)
	case len(payload) > maxPing:
		return fail(os.NewSyscallError("sendto", syscall.EMSGSIZE))
	}
	reply := &tunnelpb.PingReply{}
	err := c.conn.Invoke(ctx, methodPath(methodPing), &tunnelpb.PingRequest{Address: dst.AsSlice(), Payload: payload}, reply)
	switch {
	case ctx.Err() != nil:
		return fail(ctx.Err())
	case err != nil:
		return fail(c.lost(rpcError(err)))
	case reply.GetUnavailable():
		return fail(fmt.Errorf("%w: %s", ErrPingUnavailable, reply.GetError()))
	case reply.GetError() != "":
		return fail(os.NewSyscallError("ping", code(min(reply.GetCode(), 0xff)).errno()))
	}
	return nil
}

func (s *Server) servePing(ctx context.Context, m *tunnelpb.PingRequest) (*tunnelpb.PingReply, error) {
	dst, ok := netip.AddrFromSlice(m.GetAddress())
	if !ok || len(m.GetPayload()) > maxPing {
		return nil, status.Error(codes.InvalidArgument, "malformed ping")
	}
	err := error(ErrPingUnavailable)
	if s.cfg.Ping != nil {
		err = s.cfg.Ping(ctx, dst, m.GetPayload())
	}
	if err == nil {
		return &tunnelpb.PingReply{}, nil
	}
	return &tunnelpb.PingReply{
		Error: err.Error(), Code: uint32(codeOf(err)), Unavailable: errors.Is(err, ErrPingUnavailable),
	}, nil
}
