//go:build !linux

package runner

import (
	"context"
	"os"

	"github.com/teleswap/teleswap/daemon/sandbox"
)

// Container is not here: there is no network to put one into.
type Container struct{}

// StartContainer returns sandbox.ErrUnsupported.
func StartContainer(context.Context, ContainerSpec, Stdio) (*Container, error) {
	return nil, sandbox.ErrUnsupported
}

// Pid is none.
func (c *Container) Pid() int { return 0 }

// Wait returns at once.
func (c *Container) Wait() (Exit, error) { return Exit{}, sandbox.ErrUnsupported }

// Signal reaches nobody.
func (c *Container) Signal(os.Signal) error { return os.ErrProcessDone }

// Keys has none.
func (c *Container) Keys() <-chan os.Signal { return nil }

// RunHook runs none.
func (c *Container) RunHook(Hook) error { return sandbox.ErrUnsupported }

// OwnTerminal is false.
func (c *Container) OwnTerminal() bool { return false }

// Done is never closed.
func (c *Container) Done() <-chan struct{} { return nil }
