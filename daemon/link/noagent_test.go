package link

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/proxy/transport"
)

// TestNoAgentInShort: three lines, whatever the ways had to say.
func TestNoAgentInShort(t *testing.T) {
	const begin = "no agent answers on port 15100 of pod web-1, although its container runs\n" +
		"is image some/image the agent's? --agent-image (or TELESWAP_AGENT_IMAGE) names another\ntried: "
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("nothing to try"), "nothing to try"},
		{
			&transport.Failure{Ways: []transport.WayError{
				{Way: "pod-ip", Err: fmt.Errorf("dial tcp 10.0.0.1:15100: %w", errors.New("i/o timeout"))},
				{Way: "pod-proxy", Err: fmt.Errorf("dial pod: error dialing backend: %w IPv6: no suitable address", syscall.ECONNREFUSED)},
				{Way: "port-forward-spdy", Err: errors.New("lost\nconnection")},
			}},
			"pod-ip (i/o timeout), pod-proxy (connection refused), port-forward-spdy (lost)",
		},
	} {
		e := &NoAgentError{Pod: "web-1", Port: 15100, Image: "some/image", Err: c.err}
		if got := e.Error(); got != begin+c.want {
			t.Errorf("got\n%s\nwant\n%s", got, begin+c.want)
		}
	}
}
