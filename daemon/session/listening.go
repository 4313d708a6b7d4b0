package session

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// listenEvery is how often the sandbox's sockets are read: it is one small file,
	// and what it costs is time until the first request.
	listenEvery = 20 * time.Millisecond
	// listenPatience is how long a process may take to listen before the user is told.
	// `go run` compiles first; who waits longer than this wants to know why.
	listenPatience = 3 * time.Second
	// ownersWord is how long the owner may take to tell that its process has ended.
	ownersWord = 2 * time.Second
)

// awaitListening waits until the process listens on every needed port. It warns when
// that takes long, and again when the process listens on yet another port. That it
// listens on less is what processes do that end.
func (s *Session) awaitListening(ctx context.Context, at listens, need []int32) error {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	patience := time.NewTimer(listenPatience)
	defer patience.Stop()
	late := false
	var warned []int32
	for {
		have, err := listensOn(at)
		if err != nil {
			return afterBox(ctx, err)
		}
		missing := slices.DeleteFunc(slices.Clone(need), func(p int32) bool { return slices.Contains(have, p) })
		if len(missing) == 0 {
			return nil
		}
		another := func(p int32) bool { return !slices.Contains(warned, p) }
		if late && (warned == nil || slices.ContainsFunc(have, another)) {
			s.warn("%s", missingText(missing, have))
			warned = append(append([]int32{}, warned...), have...)
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

// listensOn are the TCP ports on which something listens there, sorted.
func listensOn(at listens) ([]int32, error) {
	sockets, err := at.Listening()
	if err != nil {
		return nil, fmt.Errorf("see what the process listens on: %w", err)
	}
	var ports []int32
	for _, so := range sockets {
		if strings.HasPrefix(so.Network, "tcp") {
			ports = append(ports, int32(so.Addr.Port()))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

// missingText says what is not listened on, and what is instead.
func missingText(missing, have []int32) string {
	text := "waiting: nothing listens on " + portsText(missing) + " yet"
	others := slices.DeleteFunc(slices.Clone(have), func(p int32) bool { return slices.Contains(missing, p) })
	if len(others) == 0 {
		return text
	}
	text += "; the process listens on " + joinPorts(others) + " (does it read its port from the environment?)"
	return text
}
