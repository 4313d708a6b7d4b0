package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/dnsresolver"
	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/relay"
	"github.com/teleswap/teleswap/proxy/tun"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// laptopResolver is where the laptop says whom to ask for names.
const laptopResolver = "/etc/resolv.conf"

// laptopDialTimeout is less than connect(2)'s own patience on Linux (some 130 s), as
// netstack keeps the process's SYN waiting meanwhile.
const laptopDialTimeout = 30 * time.Second

// Attach implements Link: a stack between the sandbox's device and the tunnel.
func (l *agentLink) Attach(ctx context.Context, box Box, view *tunnel.PodView) error {
	stack, err := l.newStack(box, view)
	if err != nil {
		return err
	}
	near := newNeighbours(box, l)
	l.mu.Lock()
	l.stack, l.near = stack, near
	if l.listening != nil {
		near.tell(*l.listening)
	}
	l.mu.Unlock()
	var at served = boxed{stack, box}
	if l.cfg.Hold {
		at = newHeld(at, onLaptop(nil))
	}
	l.attached <- at
	l.settled <- near
	select { // the process may want its sidecars at once
	case <-near.begun:
	case <-ctx.Done():
	}
	return nil
}

// newStack makes the stack behind the sandbox's device, by which the process reaches what its pod reaches.
func (l *agentLink) newStack(box Box, view *tunnel.PodView) (*netstack.Stack, error) {
	p, err := podNamesOf(view)
	if err != nil {
		return nil, err
	}
	nameservers, err := parseAddrs(p.resolv.Servers)
	if err != nil {
		return nil, fmt.Errorf("read the pod's resolv.conf: %w", err)
	}
	w, resolver := l.wire(p, view)
	device, err := tun.FromFile(box.TakeTUN(), sandbox.DefaultMTU)
	if err != nil {
		return nil, err
	}
	stack, err := netstack.New(netstack.Config{
		Device: device, Addrs: p.addrs, DialTCP: w.dial, DialUDP: w.dialUDP, Ping: w.ping, DialLoopback: dialInside(box),
		DNS: resolver.Query, Nameservers: nameservers, Logger: l.log,
	})
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return stack, nil
}

// podNamesOf reads what the pod's view says of addresses and names.
func podNamesOf(view *tunnel.PodView) (p podNames, err error) {
	if p.addrs, err = parseAddrs(view.GetPodIps()); err != nil {
		return p, err
	}
	if p.resolv, err = dns.ClientConfigFromReader(bytes.NewReader(view.GetResolvConf())); err != nil {
		return p, fmt.Errorf("read the pod's resolv.conf: %w", err)
	}
	return p, nil
}

// dialInside connects to what listens in the sandbox where no packet leads to.
func dialInside(box socketMaker) func(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return func(_ context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
		f, err := box.Dial(network, dst)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return net.FileConn(f)
	}
}

// neighbourLoop lets the process find the other containers' ports, once it is joined. It
// ends with ctx.
func (l *agentLink) neighbourLoop(ctx context.Context) {
	select {
	case near := <-l.settled:
		near.followLoop(ctx)
	case <-ctx.Done():
	}
}

// heardListening takes in what the pod's other containers listen on.
func (l *agentLink) heardListening(e tunnel.PodListening) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listening = &e
	if l.near != nil {
		l.near.tell(e)
	}
}

// routes is the route rule for this pod, this cluster and this laptop.
func (l *agentLink) routes(pod []netip.Addr, view *tunnel.PodView) routes {
	r := routes{Cluster: l.cfg.Services, Also: l.cfg.Also}
	for _, a := range pod {
		r.Cluster = append(r.Cluster, podSubnet(a))
	}
	for _, kv := range view.GetEnv() {
		host, found := strings.CutPrefix(string(kv), "KUBERNETES_SERVICE_HOST=")
		if !found {
			continue
		}
		if a, err := netip.ParseAddr(host); err == nil {
			r.Cluster = append(r.Cluster, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		l.log.Warn("the laptop's own addresses are unknown", "error", err)
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			r.Own = append(r.Own, p.Addr())
		}
	}
	return r
}

// wiring is what connections of the process are dialled by.
type wiring struct {
	link    *agentLink
	routes  routes
	answers answers
	host    laptop // where hostAddr leads
}

// way is where what is sent to dst goes.
func (w *wiring) way(dst netip.Addr) way {
	return w.routes.choose(dst, w.answers.laptopKnows(dst))
}

// dial opens what the process asked for, the way its destination goes.
func (w *wiring) dial(ctx context.Context, _, dst netip.AddrPort) (net.Conn, error) {
	if dst.Addr() == hostAddr {
		return w.host.DialTCP(ctx, netip.AddrPort{}, dst)
	}
	if w.way(dst.Addr()) == viaLaptop {
		d := net.Dialer{Timeout: laptopDialTimeout}
		return d.DialContext(ctx, "tcp", dst.String())
	}
	client, err := w.link.Working(ctx)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ENETUNREACH}
	}
	return client.DialContext(ctx, "tcp", dst.String())
}

// podResolver asks the pod's resolver through whatever tunnel stands.
type podResolver struct{ link *agentLink }

// Exchange implements dnsresolver.Exchanger.
func (p podResolver) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	answer, err := p.link.exchange(ctx, msg)
	if err == nil {
		p.link.cfg.Also.answered(answer)
	}
	return answer, err
}

// exchange asks the pod's resolver one message.
func (l *agentLink) exchange(ctx context.Context, msg []byte) ([]byte, error) {
	if counts, ok := l.tunnels.(dnsresolver.Exchanger); ok {
		return counts.Exchange(ctx, msg)
	}
	client, err := l.Working(ctx)
	if err != nil {
		return nil, err
	}
	l.queries.Add(1)
	return client.Exchange(ctx, msg)
}

// acceptLoop serves connections that arrive at the pod, over one tunnel after the
// other. It ends with ctx or when the agent is lost.
func (l *agentLink) acceptLoop(ctx context.Context) {
	var to served
	select {
	case to = <-l.attached:
		to = mapped{gated(to, l.cfg.Gate), l.cfg.Maps}
	case <-ctx.Done():
		return
	}
	for ctx.Err() == nil {
		client, err := l.Working(ctx)
		if err != nil {
			select {
			case <-l.Gone():
				return
			default:
				continue // it waited long; wait on
			}
		}
		if err := l.retell(ctx, client); err != nil {
			l.log.Warn("the agent could not be told its state again", "error", err)
		}
		err = client.Accept(ctx, func(ctx context.Context, in *tunnel.Inbound) { l.serve(ctx, to, in) })
		if ctx.Err() == nil {
			l.log.Info("accepting from this tunnel ended", "error", err)
			select { // nothing more comes from this client
			case <-client.Done():
			case <-ctx.Done():
			}
		}
	}
}

// retell gives a new connection what the agent had been told on the last one.
func (l *agentLink) retell(ctx context.Context, client *tunnel.Client) error {
	l.mu.Lock()
	ready, held := l.ready, l.held
	l.mu.Unlock()
	switch {
	case held:
		return client.Hold(ctx)
	case ready:
		return client.SetReady(ctx, true)
	}
	return nil
}

// serve joins one connection that arrived at the pod to the process.
func (l *agentLink) serve(ctx context.Context, to served, in *tunnel.Inbound) {
	if in.Network == "udp" {
		l.serveFlow(ctx, to, in)
		return
	}
	local, err := to.DialTCP(ctx, in.Remote, in.Local)
	if err != nil {
		l.log.Debug("an inbound connection was refused", "port", in.Local.Port(), "error", err)
		if err := in.Refuse(errnoOf(err)); err != nil {
			l.log.Debug("refuse an inbound connection", "error", err)
		}
		return
	}
	remote, err := in.Accept()
	if err != nil {
		relay.Reset(local)
		l.log.Debug("accept an inbound connection", "error", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { relay.Reset(local); relay.Reset(remote) })
	defer stop()
	if err := relay.Relay(local, remote); err != nil {
		l.log.Debug("an inbound connection was cut", "error", err)
	}
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return syscall.ECONNREFUSED
}

func parseAddrs(texts []string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, 0, len(texts))
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return nil, fmt.Errorf("%q is no address: %w", t, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
