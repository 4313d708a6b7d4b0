package session

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
)

const (
	// listenEvery is how often the sandbox's sockets are read, at most: what it costs is time until the first request. The
	// kernel goes through the tables of all namespaces for that, some milliseconds, and the process that is waited for
	// may be compiling: so it waits listenRest times as long as the last look took.
	listenEvery = 20 * time.Millisecond
	listenRest  = 4
	// listenPatience is how long a process may take to listen before the user is told.
	// `go run` compiles first; who waits longer than this wants to know why.
	listenPatience = 3 * time.Second
	// firstEphemeral is the first port that the kernel gives to a client's socket (ip(7)).
	firstEphemeral = 32768
	// ownersWord is how long the owner may take to tell that its process has ended.
	ownersWord = 2 * time.Second
)

// port is one of TCP, or of UDP.
type port struct {
	number int32
	udp    bool
}

func (p port) String() string {
	if p.udp {
		return fmt.Sprintf("%d/udp", p.number)
	}
	return strconv.Itoa(int(p.number))
}

func comparePorts(a, b port) int {
	switch {
	case a.udp == b.udp:
		return cmp.Compare(a.number, b.number)
	case a.udp:
		return 1
	}
	return -1
}

// ports are those of TCP, then those of UDP.
func ports(tcp, udp []int32) []port {
	all := make([]port, 0, len(tcp)+len(udp))
	for _, number := range tcp {
		all = append(all, port{number: number})
	}
	for _, number := range udp {
		all = append(all, port{number: number, udp: true})
	}
	return all
}

func portsText(ports []port) string {
	switch len(ports) {
	case 0:
		return "no ports"
	case 1:
		return "port " + joinPorts(ports)
	}
	return "ports " + joinPorts(ports)
}

func joinPorts(ports []port) string {
	texts := make([]string, 0, len(ports))
	for _, p := range ports {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// awaitListening waits until the process listens on every needed port. It warns when
// that takes long, and again when the process listens on yet another port. That it
// listens on less is what processes do that end.
func (s *Session) awaitListening(ctx context.Context, at listens, need []port) error {
	tick := time.NewTimer(listenEvery)
	defer tick.Stop()
	patience := time.NewTimer(listenPatience)
	defer patience.Stop()
	late, told := false, false
	var warned []port
	for {
		began := time.Now()
		have, err := listensOn(at, need)
		tick.Reset(max(listenEvery, listenRest*time.Since(began)))
		if err != nil {
			return afterBox(ctx, err)
		}
		missing := slices.DeleteFunc(slices.Clone(need), func(p port) bool { return slices.Contains(have, p) })
		if len(missing) == 0 {
			return nil
		}
		another := func(p port) bool { return !slices.Contains(warned, p) }
		if t, ok := at.(taker); ok && !told {
			if err := t.taken(missing); err != nil {
				s.warn("waiting: %v", err)
				told = true
			}
		}
		if late && (warned == nil || slices.ContainsFunc(have, another)) {
			s.warn("%s", missingText(missing, have, s.Status().Ports))
			warned = append(append([]port{}, warned...), have...)
		}
		select {
		case <-tick.C:
		case <-patience.C:
			late = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// afterBox is why a sandbox cannot be read: mostly its process has just ended, and its
// owner is about to say how.
func afterBox(ctx context.Context, err error) error {
	word := time.NewTimer(ownersWord)
	defer word.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-word.C:
		return err
	}
}

// listensOn are the ports on which something listens there, sorted; those of UDP where one is needed. A client's socket for
// datagrams looks like a server's: one on an ephemeral port counts only where that very port is needed.
func listensOn(at listens, need []port) ([]port, error) {
	sockets, err := at.Listening()
	if err != nil {
		return nil, fmt.Errorf("see what the process listens on: %w", err)
	}
	datagrams := slices.ContainsFunc(need, func(p port) bool { return p.udp })
	var have []port
	for _, so := range sockets {
		p := port{int32(so.Addr.Port()), strings.HasPrefix(so.Network, "udp")}
		if !p.udp || slices.Contains(need, p) || datagrams && p.number < firstEphemeral {
			have = append(have, p)
		}
	}
	slices.SortFunc(have, comparePorts)
	return slices.Compact(have), nil
}

// missingText says what is not listened on, and what is instead.
func missingText(missing, have []port, maps []kube.PortMap) string {
	text := "waiting: nothing listens on " + portsText(missing) + " yet"
	others := slices.DeleteFunc(slices.Clone(have), func(p port) bool { return slices.Contains(missing, p) })
	if len(others) == 0 {
		return text
	}
	text += "; the process listens on " + joinPorts(others) + " (does it read its port from the environment?" + exposeHint(missing, others, maps) + ")"
	return text
}
