package kube

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const (
	// upgradeProtocol is what the agent's port speaks after the 101.
	upgradeProtocol = "teleswap"

	dialTimeout  = 10 * time.Second
	dialKeepSpan = 15 * time.Second
)

// DialPodProxy opens a raw connection to a port of a pod by an HTTP/1.1 upgrade
// through pods/NAME:PORT/proxy, which needs `get pods/proxy`. ctx bounds the dial
// alone. Deadlines work; the caller closes the connection.
func (c *Cluster) DialPodProxy(ctx context.Context, namespace, pod string, port int32) (net.Conn, error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/", url.PathEscape(namespace), url.PathEscape(pod), port)
	conn, err := c.upgrades.dial(ctx, path)
	if err != nil {
		return nil, c.explain(fmt.Sprintf("dial pod %s:%d through pods/proxy", pod, port), err)
	}
	return conn, nil
}

// upgrader makes HTTP/1.1 upgrades on the API server with all that the kubeconfig says
// of TLS, proxies and credentials.
type upgrader struct {
	base *url.URL
	rt   http.RoundTripper
}

func newUpgrader(config *rest.Config) (*upgrader, error) {
	base, err := baseURL(config)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("set up TLS: %w", err)
	}
	if tlsConfig == nil {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	tlsConfig = tlsConfig.Clone()
	tlsConfig.NextProtos = []string{"http/1.1"} // an upgrade is a matter of HTTP/1.1
	rt, err := rest.HTTPWrappersForConfig(config, &http.Transport{
		Proxy:               config.Proxy,
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: dialKeepSpan}).DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: dialTimeout,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableKeepAlives:   true,
		DisableCompression:  true,
	})
	if err != nil {
		return nil, fmt.Errorf("set up credentials: %w", err)
	}
	return &upgrader{base: base, rt: rt}, nil
}

// baseURL is the API server's URL, with the path before which the API may lie.
func baseURL(config *rest.Config) (*url.URL, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("read the server's URL: %w", err)
	}
	return base, nil
}

// endpoint is the URL of a path of the API.
func endpoint(base *url.URL, path string) *url.URL {
	u := *base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	return &u
}

// dial gets path with an upgrade and returns the connection after the 101.
//
// net/http gives the body of such an answer as the connection with what it has read
// ahead, and lets go of it; the connection itself, seen by the trace, is used for what
// a body has not got: deadlines and addresses.
func (u *upgrader) dial(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	// The request's context must outlive the dial, or its end would cut the
	// connection; what bounds the dial is the cancel below.
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(lasting, trace), http.MethodGet, endpoint(u.base, path).String(), nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", upgradeProtocol)
	response, err := u.rt.RoundTrip(r)
	if err != nil {
		stop()
		cancel()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		err := refusal(response)
		stop()
		cancel()
		return nil, err
	}
	body, writable := response.Body.(io.ReadWriteCloser)
	if !stop() || !writable || conn == nil { // ctx ended just now, or net/http has changed
		cancel()
		_ = response.Body.Close()
		return nil, errors.Join(ctx.Err(), errors.New("the upgraded connection was lost"))
	}
	return &upgraded{Conn: conn, body: body, release: cancel}, nil
}

// refusal makes an error of an answer that is no 101. The API server's own are Status
// objects; others come from the pod or from a proxy on the way.
func refusal(response *http.Response) error {
	text := drain(response.Body)
	var status metav1.Status
	if decodeStatus(text, &status) {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("no upgrade but %s: %s", response.Status, strings.TrimSpace(string(text[:min(len(text), 512)])))
}

// upgraded is the connection after the 101.
type upgraded struct {
	net.Conn
	body    io.ReadWriteCloser
	release context.CancelFunc // of the request's context
}

// Read reads first what net/http had read ahead.
func (u *upgraded) Read(p []byte) (int, error) { return u.body.Read(p) }

// Write writes to the connection.
func (u *upgraded) Write(p []byte) (int, error) { return u.body.Write(p) }

// Close closes the connection.
func (u *upgraded) Close() error {
	defer u.release()
	return u.body.Close()
}
