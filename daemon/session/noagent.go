package session

import (
	"errors"
	"fmt"
	"strings"

	"github.com/teleswap/teleswap/proxy/transport"
)

// NoAgentError says that no agent answers in a pod whose container runs. What is to be done comes first, then each way that was
// tried.
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
		fmt.Fprintf(&b, "\n  %v", e.Err)
		return b.String()
	}
	for _, w := range ways.Ways {
		fmt.Fprintf(&b, "\n  %s: %v", w.Way, w.Err)
	}
	return b.String()
}

// Unwrap returns the last try's error.
func (e *NoAgentError) Unwrap() error { return e.Err }
