package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/dnsresolver"
	"github.com/teleswap/teleswap/dnsresolver/osdns"
	"github.com/teleswap/teleswap/dnsresolver/serve"
	"github.com/teleswap/teleswap/dnsresolver/split"
	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/tun"
)

const (
	// mtu is the device's, in bytes: what it costs to send is paid by the packet.
	mtu = 65520
	// undoPatience bounds the undo.
	undoPatience = 30 * time.Second
)

// Prepared is a machine that was looked at, and nothing more.
type Prepared struct {
	Plan   Plan
	Choice osdns.Choice
	cfg    Config
}

// Prepare looks at the machine and decides what will be done. It changes nothing. Errors say what stands in the way: a
// *ConflictError, or osdns.ErrRefused.
func Prepare(ctx context.Context, cfg Config) (*Prepared, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	seen, err := osdns.Look(ctx)
	if err != nil {
		return nil, err
	}
	choice, err := osdns.ChooseHere(seen)
	if err != nil {
		return nil, err
	}
	choice.Former = slices.DeleteFunc(choice.Former, ours)
	routes, err := Routes()
	if err != nil {
		return nil, err
	}
	wish := Wish{
		Ranges: cfg.Ranges, Also: cfg.Also, Never: slices.Concat(cfg.Never, cfg.Reserved),
		AllowConflicts: cfg.AllowConflicts, Map: cfg.Map, Routes: routes, NoIPv6: noIPv6(),
	}
	for _, a := range choice.Former {
		wish.Never = append(wish.Never, netip.PrefixFrom(a.WithZone(""), a.BitLen()))
	}
	plan, err := MakePlan(wish)
	if err != nil {
		return nil, err
	}
	return &Prepared{Plan: plan, Choice: choice, cfg: cfg}, nil
}

// noIPv6 says whether the machine was told, or built, to do without.
func noIPv6() bool {
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err != nil || strings.TrimSpace(string(disabled)) != "0"
}

// Connection is a machine that is connected. Its methods are safe for concurrent use.
type Connection struct {
	Prepared
	warden   *warden.Warden
	resolver *split.Resolver
	device   string
	server   netip.Addr

	stack   *netstack.Stack
	mapped  *mapped
	closers []func() error
	serving sync.WaitGroup
	stop    context.CancelFunc

	once sync.Once
	err  error
}

// Connect does what was decided, through a warden, which it takes over: also when it fails, and then everything is undone. ctx bounds the
// setting up only.
func (p *Prepared) Connect(ctx context.Context, w *warden.Warden, told Told) (_ *Connection, err error) {
	c := &Connection{Prepared: *p, warden: w, device: device, mapped: newMapped(p.cfg.Map, p.Plan.Mapped)}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close(ctx))
		}
	}()
	c.resolver = split.New(c.names())
	for _, step := range []struct {
		name string
		do   func(ctx, running context.Context) (detail string, err error)
	}{
		{"device", c.makeDevice},
		{"routes", c.route},
		{"resolver", c.serveNames},
	} {
		told(step.name, "", false)
		detail, err := step.do(ctx, running)
		if err != nil {
			return nil, err
		}
		told(step.name, detail, true)
	}
	return c, nil
}

// names says whose names are whose.
func (c *Connection) names() split.Config {
	cfg := split.Config{
		Cluster: c.cfg.Cluster, Namespace: c.cfg.Namespace, ClusterDomain: clusterDomain(c.cfg.Search), Namespaces: c.cfg.Namespaces,
		Domains: append(clusterSearch(c.cfg.Search), c.cfg.AlsoNames...), Never: c.cfg.NeverNames,
		Reverse: slices.Concat(c.cfg.Ranges, c.Plan.Mapped),
	}
	var former []string
	for _, a := range c.Choice.Former {
		former = append(former, netip.AddrPortFrom(a, 53).String())
	}
	if len(former) > 0 {
		cfg.Former = dnsresolver.Servers(former...)
	}
	if len(c.Plan.Mapped) > 0 {
		cfg.Rewrite = c.mapped.toVirtual
		cfg.Real = func(a netip.Addr) netip.Addr {
			if real, ok := c.mapped.toReal(a); ok {
				return real
			}
			return a
		}
	}
	return cfg
}

func (c *Connection) makeDevice(ctx, _ context.Context) (string, error) {
	if err := c.warden.Begin(ctx, warden.Begin{Session: c.cfg.Session, About: c.cfg.About}); err != nil {
		return "", err
	}
	f, err := c.warden.MakeDevice(ctx, warden.Device{Name: c.device, MTU: mtu, Addrs: c.Plan.addresses()})
	if err != nil {
		return "", err
	}
	var addrs []netip.Addr
	for _, p := range c.Plan.addresses() {
		addrs = append(addrs, p.Addr())
	}
	dev, err := tun.FromFile(f, mtu)
	if err != nil {
		return "", err
	}
	c.stack, err = netstack.New(netstack.Config{
		Device: dev, Addrs: addrs, DialTCP: c.dialTCP, DialUDP: c.dialUDP, Ping: c.ping,
		DNS: c.resolver.Query, Nameservers: []netip.Addr{c.Plan.Resolver}, Logger: c.cfg.Logger,
	})
	if err != nil {
		return "", err
	}
	c.closers = append(c.closers, c.stack.Close)
	return fmt.Sprintf("%s, %v", c.device, c.Plan.Address.Addr()), nil
}

func (c *Connection) route(ctx, _ context.Context) (string, error) {
	if err := c.warden.Route(ctx, warden.Routes{Device: c.device, Prefixes: c.Plan.Routes}); err != nil {
		return "", err
	}
	return listOf(c.Plan.Routes), nil
}

// listOf names a few prefixes.
func listOf(list []netip.Prefix) string {
	const few = 4
	var texts []string
	for _, p := range list[:min(few, len(list))] {
		texts = append(texts, p.String())
	}
	if more := len(list) - few; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}

// serveNames has our resolver answer, and then the machine ask it.
func (c *Connection) serveNames(ctx, running context.Context) (string, error) {
	c.server = c.Plan.Resolver
	switch c.Choice.Way {
	case osdns.Plain, osdns.Resolvconf, osdns.NetworkManager:
		if err := c.listen(ctx, running); err != nil {
			return "", err
		}
	}
	change := c.cfg.changeOf(c.Choice, c.server, c.device, slices.Concat(c.Plan.Routes, c.Plan.Mapped))
	if err := c.warden.SetResolver(ctx, change); err != nil {
		return "", err
	}
	return c.Choice.String(), nil
}

// listen opens our resolver's own address.
func (c *Connection) listen(ctx, running context.Context) error {
	addr := firstResolver()
	for {
		pc, lis, err := c.warden.Listen(ctx, addr)
		if err == nil {
			c.server = addr
			c.closers = append(c.closers, pc.Close, lis.Close)
			c.serving.Go(func() { serve.Packets(running, pc, c.resolver.Query, c.cfg.Logger) })
			c.serving.Go(func() { serve.Listener(running, lis, c.resolver.Query, c.cfg.Logger) })
			return nil
		}
		if addr = addr.Next(); !ours(addr) || !strings.Contains(err.Error(), "in use") {
			return err
		}
	}
}

// Done is closed when root's part has gone: the connection can be no more. Close is still due.
func (c *Connection) Done() <-chan struct{} { return c.warden.Gone() }

// Close undoes everything: first the resolver, while ours still answers, then the rest. It may be called again. ctx's end does not end it.
func (c *Connection) Close(ctx context.Context) error {
	c.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		err := c.warden.End(ctx)
		if errors.Is(err, warden.ErrGone) {
			err = ErrWardenGone
		}
		c.stop()
		errs := []error{err}
		for _, closer := range slices.Backward(c.closers) {
			if err := closer(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		c.serving.Wait()
		c.err = errors.Join(errs...)
	})
	return c.err
}

// Changes are what differs on the machine while it is connected, a line each.
func (c *Connection) Changes() []string {
	return []string{
		fmt.Sprintf("network device %s, %v", c.device, c.Plan.Address.Addr()),
		"routes to it: " + listOf(c.Plan.Routes),
		fmt.Sprintf("resolver asks %v for names, by %s", c.server, c.Choice),
	}
}

// Counts are what our resolver was asked, and answered from memory.
func (c *Connection) Counts() (asked, cached int64) {
	return c.resolver.Asked.Load(), c.resolver.Cached.Load()
}
