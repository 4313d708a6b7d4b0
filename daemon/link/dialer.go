package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/transport"
)

const (
	// podIPPatience is short: either packets reach the pods' network, or they do not.
	podIPPatience = time.Second
	wayPatience   = 10 * time.Second
)

// Dialer opens links and remembers, for each API server, the way that worked last.
// It is safe for concurrent use; its zero value is ready.
type Dialer struct {
	// Only is the one way to take, by its name; empty: the whole ladder.
	Only string

	mu   sync.Mutex
	last map[string]string // name of a way, by the API server's URL
}

// Dial opens the tunnel to an agent. ctx bounds the dialling only; the caller closes the link. An agent that does not answer is
// a *NoAgentError.
func (d *Dialer) Dial(ctx context.Context, cfg Config) (*Link, error) {
	server := cfg.Cluster.Server()
	d.mu.Lock()
	last := d.last[server]
	d.mu.Unlock()
	list := transport.Preferring(last, ways(cfg))
	if d.Only != "" {
		list = slices.DeleteFunc(list, func(w transport.Way) bool { return w.Name != d.Only })
		if len(list) == 0 {
			return nil, fmt.Errorf("no way to the agent is called %q\n"+
				"there are %s; see TELESWAP_TRANSPORT in the user guide", d.Only, wayNames(ways(cfg)))
		}
	}
	l, err := open(ctx, cfg, list)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = map[string]string{}
	}
	d.last[server] = l.Transport()
	return l, nil
}

// ways are the ladder to an agent.
func ways(cfg Config) []transport.Way {
	c, pod := cfg.Cluster, cfg.Pod
	forward := func(kind string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return c.DialPortForward(ctx, pod.Namespace, pod.Name, cfg.Port, kind)
		}
	}
	var list []transport.Way
	if pod.IP.IsValid() {
		direct := transport.PodIP(netip.AddrPortFrom(pod.IP, uint16(cfg.Port)))
		direct.Timeout = podIPPatience
		list = append(list, direct)
	}
	return append(list,
		transport.Way{Name: "pod-proxy", Timeout: wayPatience, Dial: func(ctx context.Context) (net.Conn, error) {
			return c.DialPodProxy(ctx, pod.Namespace, pod.Name, cfg.Port)
		}},
		transport.Way{Name: "port-forward-websocket", Timeout: wayPatience, Dial: forward("websocket")},
		transport.Way{Name: "port-forward-spdy", Timeout: wayPatience, Dial: forward("spdy")},
	)
}

func wayNames(list []transport.Way) string {
	names := make([]string, 0, len(list))
	for _, w := range list {
		names = append(names, w.Name)
	}
	return strings.Join(names, ", ")
}
