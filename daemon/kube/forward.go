package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	httpstreamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// The two ways in which a port-forward reaches the API server.
const (
	PortForwardWebSocket = "websocket" // SPDY within WebSocket; Kubernetes 1.31 and later
	PortForwardSPDY      = "spdy"
)

// spdyPing keeps a quiet port-forward alive through what lies on the way.
const spdyPing = 10 * time.Second

// DialPortForward opens a raw connection to a port of a pod through pods/portforward;
// kind is PortForwardWebSocket (needs `get` and, from Kubernetes 1.35 on, `create`) or
// PortForwardSPDY (`create`). ctx bounds the dial alone. The caller closes the
// connection. Read deadlines work; a write deadline only keeps a write from starting.
func (c *Cluster) DialPortForward(ctx context.Context, namespace, pod string, port int32, kind string) (net.Conn, error) {
	doing := fmt.Sprintf("dial pod %s:%d through pods/portforward (%s)", pod, port, kind)
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/portforward", url.PathEscape(namespace), url.PathEscape(pod))
	var negotiate func(context.Context, *url.URL) (httpstream.Connection, string, error)
	switch kind {
	case PortForwardWebSocket:
		negotiate = c.negotiateWebSocket
	case PortForwardSPDY:
		negotiate = c.negotiateSPDY
	default:
		return nil, fmt.Errorf("%s: no such kind", doing)
	}
	spdyConn, protocol, err := abandonable(ctx, func() (httpstream.Connection, string, error) {
		return negotiate(ctx, endpoint(c.upgrades.base, path))
	})
	if err != nil {
		if ctx.Err() != nil { // whatever the dial made of it
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, c.explain(doing, err)
	}
	if protocol != constants.PortForwardV1Name {
		_ = spdyConn.Close()
		return nil, fmt.Errorf("%s: the server speaks %q", doing, protocol)
	}
	conn, err := openForward(spdyConn, fmt.Sprintf("%s/%s", namespace, pod), port)
	if err != nil {
		_ = spdyConn.Close()
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return conn, nil
}

// abandonable runs a dial that client-go does not let be cancelled in all its phases.
// When ctx ends first, its result is closed as soon as it comes.
func abandonable(ctx context.Context, dial func() (httpstream.Connection, string, error)) (httpstream.Connection, string, error) {
	type result struct {
		conn     httpstream.Connection
		protocol string
		err      error
	}
	results := make(chan result, 1)
	go func() { // ends with the dial
		conn, protocol, err := dial()
		results <- result{conn, protocol, err}
	}()
	select {
	case r := <-results:
		return r.conn, r.protocol, r.err
	case <-ctx.Done():
		go func() { // ends with the dial
			if r := <-results; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, "", ctx.Err()
	}
}

func (c *Cluster) negotiateWebSocket(ctx context.Context, u *url.URL) (httpstream.Connection, string, error) {
	rt, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return nil, "", fmt.Errorf("set up WebSocket: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("make request: %w", err)
	}
	ws, err := websocket.Negotiate(rt, holder, r, constants.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, "", err
	}
	conn, err := httpstreamspdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("client", ws), spdyPing)
	if err != nil {
		_ = ws.Close()
		return nil, "", fmt.Errorf("speak SPDY: %w", err)
	}
	return conn, constants.PortForwardV1Name, nil
}

func (c *Cluster) negotiateSPDY(ctx context.Context, u *url.URL) (httpstream.Connection, string, error) {
	rt, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, "", fmt.Errorf("set up SPDY: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("make request: %w", err)
	}
	return spdy.NegotiateStreaming(upgrader, &http.Client{Transport: rt}, r, constants.PortForwardV1Name)
}

// openForward opens the pair of streams that one forwarded connection is made of: the
// error stream first, as the kubelet expects.
func openForward(conn httpstream.Connection, pod string, port int32) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	failure, err := conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open error stream: %w", err)
	}
	_ = failure.Close() // nothing is sent on it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open data stream: %w", err)
	}
	addr := forwardAddr(net.JoinHostPort(pod, strconv.Itoa(int(port))))
	return newStreamConn(data, failure, addr, conn.Close), nil
}

// forwardAddr is a port of a pod as a net.Addr.
type forwardAddr string

// Network implements net.Addr.
func (forwardAddr) Network() string { return "portforward" }

// String implements net.Addr.
func (a forwardAddr) String() string { return string(a) }

// errForward is what the other end said on the error stream.
var errForward = errors.New("port-forward failed")

// readFailure reads what the error stream says; nil when it says nothing.
func readFailure(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil && len(text) == 0 || len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", errForward, bytes.TrimSpace(text))
}

// decodeStatus reads a Status object of the API; false when text is something else.
func decodeStatus(text []byte, status *metav1.Status) bool {
	return json.Unmarshal(text, status) == nil && status.Kind == "Status" && status.Code != 0
}
