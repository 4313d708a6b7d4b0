package link

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/teleswap/teleswap/proxy/transport"
)

// NoAgentError says that no agent answers in a pod whose container runs. What is to be done comes first, then in short each
// way that was tried.
type NoAgentError struct {
	Pod   string
	Port  int32
	Image string
	Err   error // of the last try
}

func (e *NoAgentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no agent answers on port %d of pod %s, although its container runs\n"+
		"is image %s the agent's? --agent-image (or TELESWAP_AGENT_IMAGE) names another", e.Port, e.Pod, e.Image)
	var ways *transport.Failure
	if !errors.As(e.Err, &ways) {
		fmt.Fprintf(&b, "\ntried: %v", e.Err)
		return b.String()
	}
	tried := make([]string, 0, len(ways.Ways))
	for _, w := range ways.Ways {
		tried = append(tried, w.Way+" ("+inShort(w.Err)+")")
	}
	b.WriteString("\ntried: " + strings.Join(tried, ", "))
	return b.String()
}

// inShort is the innermost word of an error that came through several hands; the daemon's log has all of it.
func inShort(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if refused := syscall.ECONNREFUSED.Error(); strings.Contains(text, refused) {
		return refused
	}
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+len(": "):]
	}
	return text
}

// Unwrap returns the last try's error.
func (e *NoAgentError) Unwrap() error { return e.Err }
