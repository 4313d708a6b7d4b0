//go:build !linux

package main

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/teleswap/teleswap/daemon/runner"
)

// hasSandbox says that a command can have a sandbox on this system.
const hasSandbox = false

// startProcess starts the user's command.
func startProcess(ctx context.Context, spec runner.Spec, stdio runner.Stdio) (process, error) {
	if len(spec.Argv) == 0 {
		return &idle{done: make(chan struct{})}, nil
	}
	p, err := runner.StartPlain(ctx, spec, stdio)
	if err != nil { // a nil *runner.Plain would be no nil process
		return nil, err
	}
	return p, nil
}

// idle is the process of a swap that is held: none. It ends at any signal but SIGINT.
type idle struct {
	done  chan struct{}
	ended sync.Once
}

func (i *idle) Pid() int { return os.Getpid() }

func (i *idle) Wait() (runner.Exit, error) {
	<-i.done
	return runner.Exit{}, nil
}

func (i *idle) Signal(sig os.Signal) error {
	if sig != os.Interrupt {
		i.ended.Do(func() { close(i.done) })
	}
	return nil
}

func (i *idle) Keys() <-chan os.Signal { return nil }

func (i *idle) RunHook(runner.Hook) error { return errors.ErrUnsupported }

func (i *idle) OwnTerminal() bool { return false }

func (i *idle) Done() <-chan struct{} { return i.done }
