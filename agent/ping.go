package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/teleswap/teleswap/proxy/ping"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// sendEcho sends one echo and waits until ctx ends for its reply or an error about the way. It needs no
// capability, only a group within net.ipv4.ping_group_range: container runtimes set that wide for a pod.
// Where they do not the error says what would have to be changed.
func sendEcho(ctx context.Context, to netip.Addr, payload []byte) error {
	err := ping.Echo(ctx, to, payload)
	switch {
	case !errors.Is(err, ping.ErrUnavailable):
		return err
	case errors.Is(err, fs.ErrPermission): // EACCES, EPERM
		groups, _ := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
		return fmt.Errorf("%w: the sysctl net.ipv4.ping_group_range of the pod (%q) leaves out the container's groups; set it in the pod's securityContext.sysctls, to \"0 2147483647\"",
			tunnel.ErrPingUnavailable, strings.Join(strings.Fields(string(groups)), " "))
	default:
		return fmt.Errorf("%w: %w", tunnel.ErrPingUnavailable, err)
	}
}
