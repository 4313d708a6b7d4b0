package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/host"
	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/session"
)

const (
	// wardenPatience is how long root's part may take to come once it is needed: somebody may have to type a password.
	wardenPatience = 2 * time.Minute
	// lookupPatience bounds what is looked up on the way: names of flags, the API server's, namespaces.
	lookupPatience = 5 * time.Second
	// resolverStep is host's last.
	resolverStep = "resolver"
)

// wholeRequest asks for this whole machine to be connected.
type wholeRequest struct {
	Connection json.RawMessage
	Warden     string // the id under which root's part comes; empty: it is shared with a session that has one
	// Also and Never are prefixes, addresses or names.
	Also, Never    []string
	AllowConflicts bool
	Map            string   // a prefix, or empty
	Namespaces     []string // empty: all that can be listed
}

// key tells requests apart that cannot share.
func (r wholeRequest) key() string {
	r.Connection, r.Warden = nil, ""
	text, _ := json.Marshal(r) // of strings only
	return string(text)
}

// wholeUse is what a request for this machine makes of a connection.
func (s *service) wholeUse(req *api.ConnectRequest, m *api.WholeMachine) *wholeUse {
	return &wholeUse{all: s.wholes, req: wholeRequest{
		Connection: req.GetConnection(), Warden: m.GetWarden(), Also: req.GetAlsoProxy(), Never: m.GetNeverProxy(),
		AllowConflicts: m.GetAllowConflicts(), Map: m.GetMap(), Namespaces: m.GetMappedNamespaces(),
	}}
}

// wholes has the one connection of this machine that there can be.
type wholes struct {
	wardens    *warden.Listener
	namespaces func(ctx context.Context, conn json.RawMessage) ([]string, error)
	log        *slog.Logger

	mu      sync.Mutex
	current *whole
}

// whole is this machine, connected, or about to be. Several sessions may share it.
type whole struct {
	key    string
	about  string
	way    *way
	ready  chan struct{} // closed when it stands, or never will
	failed chan struct{} // closed when root's part has gone

	// conn and err are set before ready is closed.
	conn *host.Connection
	err  error

	users int // guarded by wholes.mu
}

// way is the way into the cluster, by the lease of any session that shares it: they are all of one connection.
type way struct {
	mu     sync.Mutex
	leases []*connect.Lease
}

func (w *way) lease() (*connect.Lease, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.leases) == 0 {
		return nil, net.ErrClosed
	}
	return w.leases[0], nil
}

func (w *way) add(l *connect.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leases = append(w.leases, l)
}

func (w *way) remove(l *connect.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leases = slices.DeleteFunc(w.leases, func(other *connect.Lease) bool { return other == l })
}

// DialContext implements host.Cluster.
func (w *way) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	l, err := w.lease()
	if err != nil {
		return nil, err
	}
	return l.DialContext(ctx, network, address)
}

// Ping implements host.Cluster.
func (w *way) Ping(ctx context.Context, dst netip.Addr, payload []byte) error {
	l, err := w.lease()
	if err != nil {
		return err
	}
	return l.Ping(ctx, dst, payload)
}

// Exchange implements host.Cluster.
func (w *way) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	l, err := w.lease()
	if err != nil {
		return nil, err
	}
	return l.Exchange(ctx, msg)
}

// isAgent says whether an address is that of the tunnel's other end.
func (w *way) isAgent(a netip.AddrPort) bool {
	l, err := w.lease()
	return err == nil && a.Port() == uint16(kube.ConnectPort) && slices.Contains(l.View().GetPodIps(), a.Addr().String())
}

// wholeUse is what one session does with this machine. It implements session.Use.
type wholeUse struct {
	all *wholes
	req wholeRequest

	lease *connect.Lease
	whole *whole // nil: it has none
}

// Name implements session.Use.
func (*wholeUse) Name() string { return "this machine" }

// Changes are what was changed on this machine; see session.Measured. It is called once Begin has succeeded.
func (u *wholeUse) Changes() []string { return u.whole.conn.Changes() }

// Begin implements session.Use.
func (u *wholeUse) Begin(ctx context.Context, lease *connect.Lease, tell session.Tell) (string, error) {
	w, first, err := u.all.join(u.req, lease)
	if err != nil {
		return "", err
	}
	u.whole, u.lease = w, lease
	w.way.add(lease)
	if first {
		w.conn, w.err = u.all.begin(ctx, w, u.req, lease, tell)
		close(w.ready)
		if w.conn != nil {
			go w.watch() // ends with root's part, which ends with the connection
		}
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if w.err != nil {
		return "", w.err
	}
	if !first {
		return "shared with the session that connected it", nil
	}
	return w.conn.Choice.String(), nil
}

// watch ends with root's part.
func (w *whole) watch() {
	<-w.conn.Done()
	close(w.failed)
}

// Failed implements session.Use.
func (u *wholeUse) Failed() <-chan struct{} { return u.whole.failed }

// Err implements session.Use.
func (u *wholeUse) Err() error { return host.ErrWardenGone }

// End implements session.Use. The last one who shares it puts the machine back.
func (u *wholeUse) End(ctx context.Context) error {
	if u.whole == nil {
		return nil
	}
	var err error
	if u.all.leave(u.whole) && u.whole.conn != nil {
		err = u.whole.conn.Close(ctx)
	}
	u.whole.way.remove(u.lease)
	return err
}

// join counts a session in; first: it has to begin.
func (a *wholes) join(req wholeRequest, lease *connect.Lease) (w *whole, first bool, err error) {
	status := lease.Status()
	about := "connected to namespace " + status.Namespace
	if status.Context != "" {
		about += " of context " + status.Context
	}
	key := lease.Cluster().Server() + " " + status.Namespace + " " + req.key()
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.current; w != nil {
		if w.key != key {
			return nil, false, fmt.Errorf("this machine is %s already, or with other flags\nend that first: `teleswap disconnect`", w.about)
		}
		w.users++
		return w, false, nil
	}
	w = &whole{key: key, about: about, way: &way{}, ready: make(chan struct{}), failed: make(chan struct{}), users: 1}
	a.current = w
	return w, true, nil
}

// leave counts a session out; last: nobody has it any more.
func (a *wholes) leave(w *whole) (last bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.users--
	if w.users > 0 {
		return false
	}
	if a.current == w {
		a.current = nil
	}
	return true
}

// begin looks at the machine, waits for root's part and connects.
func (a *wholes) begin(ctx context.Context, w *whole, req wholeRequest, lease *connect.Lease, tell session.Tell) (*host.Connection, error) {
	cfg, err := a.config(ctx, w, req, lease)
	if err != nil {
		return nil, err
	}
	prepared, err := host.Prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if req.Warden == "" {
		return nil, errors.New("there is no session any more to share this machine with; run the command again")
	}
	for _, c := range prepared.Plan.Conflicts {
		tell(true, "%s", c)
	}
	if len(prepared.Plan.Mapped) > 0 {
		tell(false, "names lead to addresses of %s instead of %v", req.Map, prepared.Plan.Mapped)
	}
	waiting, cancel := context.WithTimeoutCause(ctx, wardenPatience, errors.New("root's part of the connection did not come"))
	defer cancel()
	root, err := a.wardens.Await(waiting, req.Warden)
	if err != nil {
		return nil, err
	}
	return prepared.Connect(ctx, root, func(step, detail string, done bool) {
		a.log.Info("this machine", "step", step, "done", done, "detail", detail)
		if done && step != resolverStep { // that is the last, and the answer
			tell(false, "%s %s", step, detail)
		}
	})
}

// config is what the machine is connected to, and how.
func (a *wholes) config(ctx context.Context, w *whole, req wholeRequest, lease *connect.Lease) (host.Config, error) {
	ranges := lease.Ranges()
	cfg := host.Config{
		Session: strings.ToLower(req.Warden), About: w.about, Cluster: w.way, Namespace: lease.Namespace(), Search: lease.Search(),
		Ranges: slices.Concat(ranges.Services, ranges.Pods), AllowConflicts: req.AllowConflicts, Agent: w.way.isAgent, Logger: a.log,
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	var err error
	if req.Map != "" {
		if cfg.Map, err = netip.ParsePrefix(req.Map); err != nil {
			return cfg, fmt.Errorf("--map %s is no range of addresses such as 198.19.0.0/16", req.Map)
		}
	}
	if cfg.Also, cfg.AlsoNames, err = destinations(ctx, "--also-proxy", req.Also, lease.LookupNetIP); err != nil {
		return cfg, err
	}
	if cfg.Never, cfg.NeverNames, err = destinations(ctx, "--never-proxy", req.Never, net.DefaultResolver.LookupNetIP); err != nil {
		return cfg, err
	}
	if cfg.Reserved, err = reserved(ctx, lease.Cluster().Server()); err != nil {
		return cfg, err
	}
	if cfg.Namespaces = req.Namespaces; len(cfg.Namespaces) == 0 {
		if cfg.Namespaces, err = a.namespaces(ctx, req.Connection); err != nil {
			a.log.Info("namespaces cannot be listed", "error", err)
			cfg.Namespaces = []string{cfg.Namespace}
		}
	}
	return cfg, nil
}

// destinations are prefixes, and names with their addresses.
func destinations(ctx context.Context, flag string, values []string,
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error),
) (prefixes []netip.Prefix, names []string, err error) {
	for _, v := range values {
		if p, err := netip.ParsePrefix(v); err == nil {
			prefixes = append(prefixes, p)
			continue
		}
		addrs := []netip.Addr{}
		if addr, err := netip.ParseAddr(v); err == nil {
			addrs = append(addrs, addr)
		} else {
			names = append(names, strings.ToLower(strings.TrimSuffix(v, ".")))
			if addrs, err = lookup(ctx, "ip", v); err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", flag, v, err)
			}
		}
		for _, addr := range addrs {
			prefixes = append(prefixes, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
		}
	}
	return prefixes, names, nil
}

// reserved are the addresses by which the API server is reached: itself, or the proxy on the way to it. They must not lead into the
// tunnel that they carry.
func reserved(ctx context.Context, server string) ([]netip.Prefix, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("read the API server's address: %w", err)
	}
	hosts := []string{u.Hostname()}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy != nil {
		hosts = append(hosts, proxy.Hostname())
	}
	var all []netip.Prefix
	for _, h := range hosts {
		found, _, err := destinations(ctx, "the API server", []string{h}, net.DefaultResolver.LookupNetIP)
		if err != nil {
			continue // by a proxy its name need not be known here
		}
		all = append(all, found...)
	}
	return all, nil
}
