package scene

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Outside is the network beyond the laptop, which the cluster cannot reach: a
// web server at a public address, in a namespace of its own behind a veth pair,
// and the resolver that the laptop's resolv.conf names.
type Outside struct {
	Resolver string // address of the laptop's nameserver
	Name     string // a name that only the laptop's nameserver knows
	Address  string // its address
	Laptop   string // the laptop's own address on that wire

	space   string
	servers []*dns.Server
	web     *http.Server
	serving sync.WaitGroup
}

// The addresses are of the ranges for documentation (RFC 5737): public to every rule, and
// nobody's.
const (
	outsidePrefix = "tswap-out-" // of its namespace's name; the run's pid follows

	outsideName   = "public.example.com"
	outsideAddr   = "192.0.2.10"
	outsideLaptop = "192.0.2.1"
	// As systemd-resolved does, the laptop's resolver listens on loopback.
	resolverAddr = "127.0.0.53"
)

func newOutside(ctx context.Context, laptop netns) (*Outside, error) {
	o := &Outside{
		Resolver: resolverAddr, Name: outsideName, Address: outsideAddr, Laptop: outsideLaptop,
		space: outsidePrefix + strconv.Itoa(os.Getpid()),
	}
	if err := o.wire(ctx, laptop); err != nil {
		return nil, errors.Join(err, o.close())
	}
	if err := o.serve(laptop); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// wire makes the namespace and the veth pair to it. One that a killed run left is removed
// with its namespace first.
func (o *Outside) wire(ctx context.Context, laptop netns) error {
	if err := removeStrayOutsides(ctx); err != nil {
		return err
	}
	in := []string{"nsenter", "--net=" + laptop.path, "--"}
	for _, argv := range [][]string{
		{"ip", "netns", "add", o.space},
		append(in, "ip", "link", "add", "outside", "type", "veth", "peer", "name", "laptop", "netns", o.space),
		append(in, "ip", "addr", "add", o.Laptop+"/24", "dev", "outside"),
		append(in, "ip", "link", "set", "outside", "up"),
		append(in, "ip", "link", "set", "lo", "up"),
		{"ip", "-n", o.space, "addr", "add", o.Address + "/24", "dev", "laptop"},
		{"ip", "-n", o.space, "link", "set", "laptop", "up"},
		{"ip", "-n", o.space, "link", "set", "lo", "up"},
	} {
		if err := runQuietly(exec.CommandContext(ctx, argv[0], argv[1:]...)); err != nil {
			return err
		}
	}
	return nil
}

// removeStrayOutsides deletes the namespaces of runs before: none is at work, since this one has the lock.
func removeStrayOutsides(ctx context.Context) error {
	entries, err := os.ReadDir("/var/run/netns")
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), outsidePrefix) {
			continue
		}
		if err := runQuietly(exec.CommandContext(ctx, "ip", "netns", "delete", e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (o *Outside) serve(laptop netns) error {
	web, err := netns{"/var/run/netns/" + o.space}.listen(net.JoinHostPort(o.Address, "80"))
	if err != nil {
		return fmt.Errorf("listen outside: %w", err)
	}
	// The answer is who asked: a test sees by which way its request came.
	o.web = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.RemoteAddr)
	})}
	o.serving.Go(func() { _ = o.web.Serve(web) })
	packets, err := laptop.listenPacket("udp", net.JoinHostPort(o.Resolver, "53"))
	if err != nil {
		return fmt.Errorf("listen for the laptop's resolver: %w", err)
	}
	conns, err := laptop.listen(net.JoinHostPort(o.Resolver, "53"))
	if err != nil {
		return fmt.Errorf("listen for the laptop's resolver: %w", errors.Join(err, packets.Close()))
	}
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: conns}} {
		server.Handler = dns.HandlerFunc(o.answer)
		o.servers = append(o.servers, server)
		o.serving.Go(func() { _ = server.ActivateAndServe() })
	}
	return nil
}

// answer knows one name; every other does not exist.
func (o *Outside) answer(w dns.ResponseWriter, query *dns.Msg) {
	msg := new(dns.Msg)
	msg.SetReply(query)
	msg.RecursionAvailable = true
	q := query.Question[0]
	switch {
	case !strings.EqualFold(q.Name, dns.Fqdn(o.Name)):
		msg.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		msg.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5},
			A:   net.ParseIP(o.Address),
		}}
	}
	_ = w.WriteMsg(msg) // who asked sees that no answer comes
}

func (o *Outside) close() error {
	var errs []error
	if o.web != nil {
		errs = append(errs, o.web.Close())
	}
	for _, s := range o.servers {
		errs = append(errs, s.Shutdown())
	}
	o.serving.Wait()
	if _, err := os.Stat("/var/run/netns/" + o.space); err == nil {
		errs = append(errs, runQuietly(exec.Command("ip", "netns", "delete", o.space)))
	}
	return errors.Join(errs...)
}
