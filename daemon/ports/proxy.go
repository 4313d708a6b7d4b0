package ports

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/teleswap/teleswap/proxy/entrance"
	"github.com/teleswap/teleswap/proxy/pac"
	"github.com/teleswap/teleswap/proxy/socks"
)

// ScriptPath is where the proxy has the script for browsers.
const ScriptPath = "/proxy.pac"

// ProxyConfig is what Serve needs.
type ProxyConfig struct {
	Dial Dialer
	// User and Password are asked of every client, unless both are empty.
	User, Password string
	// Rules are what browsers are told to ask of the proxy. Nil: there is no script.
	Rules  func(ctx context.Context) pac.Rules
	Logger *slog.Logger // nil discards
}

// OpenError says why a proxy is not opened to others.
type OpenError struct{ At netip.AddrPort }

func (e *OpenError) Error() string {
	return fmt.Sprintf("--proxy %s: others than this machine would reach the cluster by it, with nothing to keep them from it\n"+
		"leave the address out for 127.0.0.1, or ask for a password: --proxy-auth FILE, a file (mode 0600) with one line USER:PASSWORD", e.At)
}

// Proxy is a port of this machine that is taken, and from Serve on a proxy into the cluster: SOCKS 5 and HTTP, names looked up in the
// cluster, and a script for browsers.
type Proxy struct {
	at     netip.AddrPort
	lis    net.Listener
	cancel context.CancelFunc // nil before Serve
	served sync.WaitGroup
}

// CheckProxy refuses an address that others reach without a password: a *OpenError.
func CheckProxy(at netip.AddrPort, password bool) error {
	if !at.Addr().IsLoopback() && !password {
		return &OpenError{at}
	}
	return nil
}

// TakeProxy takes the port of a proxy, with a password or without; port 0 is any that is free. The error is a *TakenError or an *OpenError.
// Until Serve, connections wait. The caller closes it.
func TakeProxy(ctx context.Context, at netip.AddrPort, password bool) (*Proxy, error) {
	if err := CheckProxy(at, password); err != nil {
		return nil, err
	}
	lis, err := listenTCP(ctx, at)
	if err != nil {
		return nil, &TakenError{What: "--proxy " + at.String(), At: at, Err: err, Hint: "name another port, as in --proxy 127.0.0.1:1081; port 0 takes any that is free"}
	}
	return &Proxy{at: netip.AddrPortFrom(at.Addr(), entrance.AddrPortOf(lis.Addr()).Port()), lis: lis}, nil
}

// Serve begins to be a proxy. It is called once, before Close.
func (p *Proxy) Serve(ctx context.Context, cfg ProxyConfig) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx)) // Close ends it
	server := &socks.Server{Dial: cfg.Dial.DialContext, User: cfg.User, Password: cfg.Password, Logger: cfg.Logger}
	if cfg.Rules != nil {
		server.Pages = pages{cfg.Rules, cfg.Logger}
	}
	p.served.Go(func() {
		if err := server.Serve(ctx, p.lis); err != nil && !errors.Is(err, net.ErrClosed) {
			cfg.Logger.Warn("the proxy ended", "error", err)
		}
	})
}

// At is where the proxy is.
func (p *Proxy) At() netip.AddrPort { return p.at }

// Close gives the port back, resets the connections and waits for them. It may be called twice.
func (p *Proxy) Close() error {
	if p.cancel != nil {
		p.cancel()
		p.served.Wait()
	}
	if err := p.lis.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// pages are what is on the proxy itself.
type pages struct {
	rules func(ctx context.Context) pac.Rules
	log   *slog.Logger
}

// ServeHTTP implements http.Handler.
func (p pages) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	if req.URL.Path != ScriptPath {
		http.Error(rw, "teleswap: this is a proxy into a cluster; settings for browsers are at "+ScriptPath, http.StatusNotFound)
		return
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		rw.Header().Set("Allow", "GET, HEAD")
		http.Error(rw, "teleswap: it is to be read only", http.StatusMethodNotAllowed)
		return
	}
	// The client knows by which address it reaches us.
	script, err := pac.Script(req.Host, p.rules(req.Context()))
	if err != nil {
		p.log.Warn("write the script for browsers", "error", err)
		http.Error(rw, "teleswap: "+err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", pac.ContentType)
	rw.Header().Set("Cache-Control", "max-age=60")
	if _, err := fmt.Fprint(rw, script); err != nil {
		p.log.Debug("a client of the proxy", "error", err)
	}
}
