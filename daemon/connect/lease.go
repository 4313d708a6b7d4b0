package connect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/dnsresolver"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// Lease is the use of a connection. Its methods are safe for concurrent use. While the connection is being mended they wait, some 10 s
// at most.
type Lease struct {
	conn  *connection
	done  <-chan struct{}
	close func()
}

// Status is how a connection stands.
type Status struct {
	Transport string // the way to the agent
	AgentPod  string
	Namespace string
	Context   string // of the kubeconfig; empty: there is none
	// Problem is what keeps the connection from being mended; empty: it stands.
	Problem string
	// Down and Up are bytes from the cluster and to it, of all users of the connection.
	Down, Up uint64
	// Queries is how many questions were put to the cluster's resolver.
	Queries uint64
}

// Working is a tunnel to the agent that stands.
func (l *Lease) Working(ctx context.Context) (*tunnel.Client, error) {
	select {
	case <-l.done:
		return nil, errClosed
	default:
		return l.conn.working(ctx)
	}
}

// DialContext connects from the agent's pod. network is "tcp" or "udp", with or without a 4 or 6 for the family; address is HOST:PORT,
// HOST being an address or a name that is looked up as in the pod, search domains included. Of several addresses each is tried. The
// error is the *net.OpError that the pod's connect got, or a *net.DNSError. A connection of UDP has no idle time-out.
func (l *Lease) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	working := sync.OnceValues(func() (*tunnel.Client, error) { return l.Working(ctx) })
	return dnsresolver.DialNames(network, address,
		func(host string) ([]netip.Addr, error) {
			return l.LookupNetIP(ctx, "ip"+network[min(len(network), 3):], host)
		},
		func(to netip.AddrPort) (net.Conn, error) {
			client, err := working()
			if err != nil {
				return nil, &net.OpError{Op: "dial", Net: network, Err: err}
			}
			return client.DialContext(ctx, network, to.String())
		})
}

// LookupNetIP looks a name up as in the agent's pod: its /etc/hosts, then its resolver with the search domains. network is "ip", "ip4"
// or "ip6". The error is a *net.DNSError.
func (l *Lease) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	names := *l.conn.names
	names.Query = l.Exchange
	all, err := names.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var fit []netip.Addr
	for _, a := range all {
		if network == "ip" || a.Is4() == (network == "ip4") {
			fit = append(fit, a)
		}
	}
	if len(fit) == 0 {
		return nil, &net.DNSError{Err: "no address of that family", Name: host, IsNotFound: true}
	}
	return fit, nil
}

// Ping sends one echo request from the agent's pod and returns nil when its reply came; see tunnel.Client.
func (l *Lease) Ping(ctx context.Context, dst netip.Addr, payload []byte) error {
	client, err := l.Working(ctx)
	if err != nil {
		return err
	}
	return client.Ping(ctx, dst, payload)
}

// Exchange asks the pod's resolver one DNS message. It implements dnsresolver.Exchanger.
func (l *Lease) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	client, err := l.Working(ctx)
	if err != nil {
		return nil, err
	}
	l.conn.queries.Add(1)
	return client.Exchange(ctx, msg)
}

// View is what the agent reports of its pod.
func (l *Lease) View() *tunnel.PodView {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	return l.conn.view
}

// Namespace is where the agent is.
func (l *Lease) Namespace() string { return l.conn.cluster.Namespace() }

// Search are the search domains of the namespace: NAMESPACE.svc.DOMAIN first, then those that all pods of the cluster have.
func (l *Lease) Search() []string { return l.conn.names.Resolv.Search }

// Cluster is the API server, for who wants more of it. The connection closes it.
func (l *Lease) Cluster() Cluster { return l.conn.cluster }

// Watch has notify told, in a line each, when the connection has broken and stands again, until the returned func is called. It must
// not call back, nor wait.
func (l *Lease) Watch(notify Notify) (stop func()) { return l.conn.watch(notify) }

// Ranges are the cluster's addresses, as far as they can be learnt.
func (l *Lease) Ranges() kube.Ranges { return l.conn.ranges }

// RoundTrip is how long the agent takes to answer now.
func (l *Lease) RoundTrip(ctx context.Context) (time.Duration, error) {
	client, err := l.Working(ctx)
	if err != nil {
		return 0, err
	}
	return client.RoundTrip(ctx)
}

// Done is closed when the connection has ended, or the Lease was closed; Err then says why.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Err is why Done is closed; nil before.
func (l *Lease) Err() error {
	select {
	case <-l.done:
		return errClosed
	default:
		return nil
	}
}

// Status is how the connection stands now.
func (l *Lease) Status() Status {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	down, up := c.link.Traffic()
	return Status{
		Transport: c.link.Transport(), AgentPod: c.pod.Name, Namespace: c.cluster.Namespace(), Context: c.cluster.Context(),
		Problem: c.problem, Down: c.down + down, Up: c.up + up, Queries: c.queries.Load(),
	}
}

// Transport is the name of the way to the agent.
func (l *Lease) Transport() string {
	link, _ := l.conn.current()
	return link.Transport()
}

// Close gives the Lease back. With the last one the agent goes, which Close does not wait for. It may be called twice.
func (l *Lease) Close() error {
	l.close()
	return nil
}

// namesOf are the pod's /etc/hosts and resolv.conf.
func (c *connection) namesOf(view *tunnel.PodView) (*dnsresolver.Names, error) {
	resolv, err := dns.ClientConfigFromReader(bytes.NewReader(view.GetResolvConf()))
	if err != nil {
		return nil, fmt.Errorf("read the pod's resolv.conf: %w", err)
	}
	if len(resolv.Servers) == 0 {
		return nil, errors.New("the agent's pod has no nameserver in its resolv.conf")
	}
	return &dnsresolver.Names{Hosts: dnsresolver.ParseHosts(view.GetHosts()), Resolv: resolv}, nil
}
