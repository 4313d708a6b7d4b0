//go:build linux

package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/teleswap/teleswap/e2e/cluster/node"
)

// Internal runs what the driver's executable does for itself, as its first
// argument says, and gives its exit status. Every executable that calls Up must
// come here first when its first argument begins with two underscores.
func Internal(ctx context.Context, args []string, stderr io.Writer) int {
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	var err error
	switch args[0] {
	case node.StageArg:
		err = node.Stage(os.NewFile(3, "configuration"))
	case node.InitArg:
		err = node.Init(logger)
	case node.RelayArg:
		err = node.Relay(ctx, args[1:], os.NewFile(3, "machine's network namespace"), logger)
	case node.PolicyArg:
		err = node.EnforcePolicy(ctx, args[1:], logger)
	case InNodeArg:
		err = InNode(args[1:])
	default:
		err = fmt.Errorf("no command %q", args[0])
	}
	if err != nil {
		logger.Error(args[0], "error", err)
		return 1
	}
	return 0
}
