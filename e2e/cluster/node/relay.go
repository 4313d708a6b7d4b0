//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/teleswap/teleswap/e2e/cluster/netns"
	"github.com/teleswap/teleswap/e2e/cluster/relay"
)

// Relay is the body of RelayArg: it listens on args[0] in the machine's network
// namespace and carries what comes to args[1] in the node's.
func Relay(ctx context.Context, args []string, machine *os.File, logger *slog.Logger) error {
	if len(args) != 2 {
		return errors.New("relay: want LISTEN and TO")
	}
	var listener net.Listener
	err := netns.DoFile(machine, func() (err error) {
		var config net.ListenConfig
		listener, err = config.Listen(ctx, "tcp", args[0])
		return err
	})
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	r := relay.Relay{Listener: listener, To: args[1], Dial: new(net.Dialer).DialContext, Logger: logger}
	return r.Run(ctx)
}
