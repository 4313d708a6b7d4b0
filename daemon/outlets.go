package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ports"
	"github.com/teleswap/teleswap/daemon/session"
	"github.com/teleswap/teleswap/proxy/pac"
)

const (
	// rulesAge is how old what browsers are told may be.
	rulesAge = 30 * time.Second
	// rulesPatience bounds the question for it.
	rulesPatience = 5 * time.Second
	// namedForwards is how many forwards are in a session's name.
	namedForwards = 2
)

// outlets is the session.Use of a connection by ports of this machine: a proxy, forwarded ports, or both.
type outlets struct {
	log            *slog.Logger
	cluster        *kube.Cluster
	forwards       *ports.Forwards
	proxy          *ports.Proxy // nil: there is none
	user, password string
}

// newOutlets takes the ports, after it has seen that their destinations are there: so what is wrong is said before anything is made
// in the cluster. The caller closes it when its session is over.
func newOutlets(ctx context.Context, cfg Config, req *api.ConnectRequest) (_ *outlets, err error) {
	conn, err := decodeConnection(req.GetConnection())
	if err != nil {
		return nil, err
	}
	o := &outlets{log: cfg.Logger, user: req.GetProxy().GetUser(), password: req.GetProxy().GetPassword()}
	if o.cluster, err = kube.Connect(conn, kube.Config{Version: cfg.Version, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = o.Close()
		}
	}()
	wanted, err := o.destinations(ctx, req.GetForwards())
	if err != nil {
		return nil, err
	}
	if o.forwards, err = ports.Take(ctx, wanted); err != nil {
		return nil, err
	}
	if p := req.GetProxy(); p != nil {
		at, err := addrPort(p.GetAddress(), p.GetPort())
		if err != nil {
			return nil, err
		}
		if o.proxy, err = ports.TakeProxy(ctx, at, o.user != "" || o.password != ""); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// destinations finds what the forwards lead to, all at once; the first that fails is told.
func (o *outlets) destinations(ctx context.Context, forwards []*api.Forward) ([]ports.Forward, error) {
	wanted := make([]ports.Forward, len(forwards))
	errs := make([]error, len(forwards))
	var finding sync.WaitGroup
	for i, f := range forwards {
		finding.Go(func() {
			d, err := o.cluster.Destination(ctx, kube.Wanted{Kind: f.GetKind(), Name: f.GetName(), Namespace: f.GetNamespace(), Port: f.GetPort(), UDP: f.GetUdp()})
			if err != nil {
				errs[i] = err
				return
			}
			local := f.GetLocal()
			if f.GetSamePort() {
				local = uint32(d.Port())
			}
			at, err := addrPort(f.GetAddress(), local)
			wanted[i], errs[i] = ports.Forward{To: d, At: at, UDP: f.GetUdp()}, err
		})
	}
	finding.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return wanted, nil
}

func addrPort(address string, port uint32) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil || port > maxPort {
		return netip.AddrPort{}, fmt.Errorf("%s:%d: no such address", address, port)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// Name implements session.Use.
func (o *outlets) Name() string {
	var names []string
	if o.proxy != nil {
		names = append(names, "proxy")
	}
	var to []string
	for _, f := range o.forwards.All() {
		to = append(to, f.To.String())
	}
	if len(to) > namedForwards {
		to = append(to[:namedForwards:namedForwards], fmt.Sprintf("and %d more", len(to)-namedForwards))
	}
	if len(to) > 0 {
		names = append(names, "forward "+strings.Join(to, " "))
	}
	return strings.Join(names, ", ")
}

// Begin implements session.Use.
func (o *outlets) Begin(ctx context.Context, lease *connect.Lease, tell session.Tell) (string, error) {
	say := func(warning bool, line string) { tell(warning, "%s", line) }
	o.forwards.Serve(ctx, ports.Config{Dial: lease, Say: say, Logger: o.log})
	if o.proxy != nil {
		rules := &rules{cluster: o.cluster, lease: lease, log: o.log}
		o.proxy.Serve(ctx, ports.ProxyConfig{Dial: lease, User: o.user, Password: o.password, Rules: rules.now, Logger: o.log})
	}
	if n := len(o.Published()); n > 1 {
		return fmt.Sprintf("%d ports of this machine", n), nil
	}
	return "a port of this machine", nil
}

// Failed implements session.Use: it goes on until it is ended.
func (o *outlets) Failed() <-chan struct{} { return nil }

// Err implements session.Use.
func (o *outlets) Err() error { return nil }

// End implements session.Use.
func (o *outlets) End(context.Context) error { return o.Close() }

// Close gives the ports back. It may be called twice.
func (o *outlets) Close() error {
	var errs []error
	if o.forwards != nil {
		errs = append(errs, o.forwards.Close())
	}
	if o.proxy != nil {
		errs = append(errs, o.proxy.Close())
	}
	return errors.Join(append(errs, o.cluster.Close())...)
}

// Changes are what the session changes of this machine: the ports that it listens on.
func (o *outlets) Changes() []string {
	var all []string
	if o.proxy != nil {
		all = append(all, "proxy at "+o.proxy.At().String())
	}
	for _, f := range o.forwards.All() {
		at := f.At.String()
		if f.UDP {
			at += "/udp"
		}
		all = append(all, at+" leads to "+f.To.String())
	}
	return all
}

// Published are the ports with the numbers that they have.
func (o *outlets) Published() []session.Publish {
	var all []session.Publish
	if o.proxy != nil {
		all = append(all, session.Publish{At: o.proxy.At()})
	}
	for _, f := range o.forwards.All() {
		all = append(all, session.Publish{At: f.At, Inside: f.To.Port(), UDP: f.UDP})
	}
	return all
}

// rules are what browsers are told to ask of the proxy. It is safe for concurrent use.
type rules struct {
	cluster *kube.Cluster
	lease   *connect.Lease
	log     *slog.Logger

	mu    sync.Mutex
	hosts []string
	read  time.Time
}

// now are the cluster's names and addresses.
func (r *rules) now(ctx context.Context) pac.Rules {
	ranges := r.lease.Ranges()
	return pac.Rules{
		Hosts: r.names(ctx), Domains: []string{"svc", clusterDomain(r.lease.Namespace(), r.lease.Search())},
		Ranges: append(append([]netip.Prefix{}, ranges.Services...), ranges.Pods...),
	}
}

// names are those of the Services, read anew after a while. Without them the names with the cluster's domain are left.
func (r *rules) names(ctx context.Context) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.read) < rulesAge {
		return r.hosts
	}
	ctx, cancel := context.WithTimeout(ctx, rulesPatience)
	defer cancel()
	hosts, err := r.cluster.ServiceNames(ctx)
	if err != nil {
		r.log.Warn("the names of Services for browsers", "error", err)
		return r.hosts
	}
	r.hosts, r.read = hosts, time.Now()
	return hosts
}

// clusterDomain is that of the cluster's names: what stands behind NAMESPACE.svc in the pod's search domains.
func clusterDomain(namespace string, search []string) string {
	for _, s := range search {
		if domain, found := strings.CutPrefix(s, namespace+".svc."); found {
			return strings.TrimSuffix(domain, ".")
		}
	}
	return "cluster.local"
}

var _ session.Use = (*outlets)(nil)
