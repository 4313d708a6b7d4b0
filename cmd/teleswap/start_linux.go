package main

import (
	"context"

	"github.com/teleswap/teleswap/daemon/runner"
)

// hasSandbox says that a command can have a sandbox on this system.
const hasSandbox = true

// startProcess starts the user's command.
func startProcess(ctx context.Context, spec runner.Spec, stdio runner.Stdio) (process, error) {
	p, err := runner.Start(ctx, spec, stdio)
	if err != nil { // a nil *runner.Process would be no nil process
		return nil, err
	}
	return p, nil
}
