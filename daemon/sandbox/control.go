package sandbox

import (
	"encoding/gob"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ControlFD is the descriptor of the control socket in the sandbox's first process.
const ControlFD = 3

// Order is what the CLI tells the sandbox's first process: the Spec once, then signals.
type Order struct {
	Spec   *Spec
	Signal syscall.Signal
	// LetGo closes the files that Start gave to hold.
	LetGo bool
	// Hook is something to do beside the command; a Report with HookEnded answers it.
	Hook *Hook
	// Enter is the first and only word of who has come in by the door, but for signals.
	Enter *Entry
	// Restart ends the command, if it runs, and starts it again; a Report with Started, Ended or Failed answers it. Only
	// where Spec.Restarts is set.
	Restart *Restart
}

// Restart says how the command is ended that is to be started again.
type Restart struct {
	// Grace is what the command and all that it started have between SIGTERM and SIGKILL.
	Grace time.Duration
}

// Report is what the first process tells the CLI: that the command started, that it could not be, or how it ended.
type Report struct {
	Ready   bool // a keeper's: the container may be started
	Started int  // process id of the command
	Failed  string
	Stopped syscall.Signal // by which the terminal has stopped the command
	// Ended is how a command ended that may be started again: the sandbox stays. Exit is the last word.
	Ended *Exit
	Exit  *Exit
	// HookEnded answers an Order's Hook, HookError says why it failed; empty: it did not.
	HookEnded bool
	HookError string
}

// Control is one end of the socket between the CLI and the sandbox's first process. One goroutine may read from it
// while others write. It speaks gob, not JSON: arguments and environment are bytes, and need not be UTF-8.
type Control struct {
	conn net.Conn
	dec  *gob.Decoder

	mu  sync.Mutex
	enc *gob.Encoder
}

// NewControl makes a Control of a connected stream socket, which it takes over.
func NewControl(f *os.File) (*Control, error) {
	defer func() { _ = f.Close() }()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the sandbox's control socket: %w", err)
	}
	return newControl(conn), nil
}

func newControl(conn net.Conn) *Control {
	return &Control{conn: conn, dec: gob.NewDecoder(conn), enc: gob.NewEncoder(conn)}
}

// Send sends an Order or a Report.
func (c *Control) Send(m any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.enc.Encode(m); err != nil {
		return fmt.Errorf("write to the sandbox's control socket: %w", err)
	}
	return nil
}

// Receive reads the next Order or Report into m. It returns io.EOF when the other process has gone.
func (c *Control) Receive(m any) error { return c.dec.Decode(m) }

// Close closes the socket: on the CLI's side it ends the command.
func (c *Control) Close() error { return c.conn.Close() }
