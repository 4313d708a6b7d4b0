package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/dnsresolver"
	"github.com/teleswap/teleswap/proxy/socks"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// outlet is the proxy by which a process without a sandbox reaches what its pod reaches.
type outlet struct {
	listener net.Listener
	server   *socks.Server
}

// outletUser is whom clients of the proxy say to be. Their password is the session's own: a port of 127.0.0.1 is open to all users
// of the machine, and what is behind it to one.
const outletUser = "teleswap"

// AttachLaptop implements Link: inbound connections go to what listens on the laptop, and a proxy on a port of 127.0.0.1
// takes outbound ones.
func (l *agentLink) AttachLaptop(at served, view *tunnel.PodView) (proxy string, err error) {
	p, err := podNamesOf(view)
	if err != nil {
		return "", err
	}
	w, resolver := l.wire(p, view)
	n := &dnsresolver.Names{Hosts: dnsresolver.ParseHosts(view.GetHosts()), Resolv: p.resolv, Query: resolver.Query}
	if _, err := os.Stat(laptopResolver); errors.Is(err, fs.ErrNotExist) {
		n.System = func(ctx context.Context, name string) ([]netip.Addr, error) {
			addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
			w.answers.answered(true, addrs)
			return addrs, err
		}
	}
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the process's outbound connections: %w", err)
	}
	dial := func(ctx context.Context, _, address string) (net.Conn, error) { return w.dialName(ctx, n, address) }
	password := rand.Text()
	l.outlets <- outlet{lis, &socks.Server{Dial: dial, User: outletUser, Password: password, Logger: l.log}}
	l.attached <- at
	return url.UserPassword(outletUser, password).String() + "@" + lis.Addr().String(), nil
}

// outletLoop serves the proxy, once there is one. It ends with ctx.
func (l *agentLink) outletLoop(ctx context.Context) {
	select {
	case o := <-l.outlets:
		if err := o.server.Serve(ctx, o.listener); err != nil {
			l.log.Warn("the proxy of a process ended", "error", err)
		}
	case <-ctx.Done():
	}
}

// dialName opens what a client of the proxy asked for by name or address, trying one address after the other.
func (w *wiring) dialName(ctx context.Context, n *dnsresolver.Names, address string) (net.Conn, error) {
	return dnsresolver.DialNames("tcp", address,
		func(host string) ([]netip.Addr, error) { return n.Lookup(ctx, host) },
		func(to netip.AddrPort) (net.Conn, error) { return w.dial(ctx, netip.AddrPort{}, to) })
}

// podNames are the pod's addresses and its resolv.conf.
type podNames struct {
	addrs  []netip.Addr
	resolv *dns.ClientConfig
}

// wire makes the dialling and resolving of a process that stands for a pod.
func (l *agentLink) wire(p podNames, view *tunnel.PodView) (*wiring, *dnsresolver.Resolver) {
	w := &wiring{link: l, routes: l.routes(p.addrs, view), host: onLaptop(nil)}
	return w, &dnsresolver.Resolver{
		Pod: podResolver{l}, Laptop: dnsresolver.SystemExchanger(laptopResolver),
		Search: p.resolv.Search, Names: map[string]netip.Addr{hostName: hostAddr}, Answered: w.answers.answered, Logger: l.log,
	}
}
