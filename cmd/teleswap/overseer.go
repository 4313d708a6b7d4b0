package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

// A swap that `teleswap up` has started speaks to it over a socket in the runtime directory, lines of JSON both ways.
// The swap goes on as long as the socket does: when `up` is killed the swap ends.

// upReport is a line of the swap's.
type upReport struct {
	PID   int       `json:"pid,omitempty"`   // the first line: who it is
	Step  *upStep   `json:"step,omitempty"`  // a step begins, or has ended
	Line  string    `json:"line,omitempty"`  // said to the user
	Stage upStage   `json:"stage,omitempty"` // where the swap is now
	End   *upEnding `json:"end,omitempty"`   // the last line
}

// upStage is a part of a session's life.
type upStage string

const (
	stageStarting  upStage = "starting"
	stageSwapped   upStage = "swapped"
	stageRestoring upStage = "restoring"
)

// upStep is a step of a swap.
type upStep struct {
	Name         string `json:"name"`
	Detail       string `json:"detail,omitempty"`
	Microseconds int64  `json:"microseconds,omitempty"`
	Begins       bool   `json:"begins,omitempty"`
	Failed       bool   `json:"failed,omitempty"`
}

// upEnding is how a swap has ended.
type upEnding struct {
	Status int `json:"status"`
	// Clean: nothing went wrong but, perhaps, the process's own exit status.
	Clean bool `json:"clean"`
}

// upOrder is a line of up's.
type upOrder struct {
	Env []string `json:"env,omitempty"` // with the first line: variables of the process, KEY=VALUE or KEY
	End string   `json:"end,omitempty"` // ends the swap, or hurries it: the name of a signal
}

// The ways in which up ends a swap: as the signals of these names would.
var upEndings = map[string]os.Signal{"interrupt": os.Interrupt, "terminated": syscall.SIGTERM, "hangup": syscall.SIGHUP}

// endingName is the order that stands for a signal.
func endingName(sig os.Signal) string {
	for name, s := range upEndings {
		if s == sig {
			return name
		}
	}
	return "terminated"
}

// upGone ends a swap whose `up` has died.
type upGone struct{}

func (upGone) String() string { return "`teleswap up` has died" }

// Signal makes it an os.Signal.
func (upGone) Signal() {}

// upPatience bounds one line between the two.
const upPatience = 10 * time.Second

// overseer is up, as a swap sees it. All its methods do nothing where it is nil: nobody oversees the swap.
type overseer struct {
	conn    net.Conn
	orders  *json.Decoder
	sigpipe chan os.Signal

	mu     sync.Mutex
	lines  *json.Encoder
	closed bool // the end is told
}

// overseerFlag has up's socket; nobody types it.
const overseerFlag = "overseer"

func addOverseer(f *pflag.FlagSet, socket *string) {
	f.StringVar(socket, overseerFlag, "", "socket of the `teleswap up` that this swap belongs to")
	_ = f.MarkHidden(overseerFlag) // it is there
}

// meet connects to up, and takes its first word: variables of the process. Nil without a socket.
func meet(socket string) (o *overseer, env []string, err error) {
	if socket == "" {
		return nil, nil, nil
	}
	conn, err := net.DialTimeout("unix", socket, upPatience)
	if err != nil {
		return nil, nil, fmt.Errorf("reach `teleswap up`: %w", err)
	}
	o = &overseer{conn: conn, lines: json.NewEncoder(conn), orders: json.NewDecoder(conn), sigpipe: make(chan os.Signal, 1)}
	o.tell(upReport{PID: os.Getpid()})
	var first upOrder
	if err := errors.Join(conn.SetReadDeadline(time.Now().Add(upPatience)), o.orders.Decode(&first), conn.SetReadDeadline(time.Time{})); err != nil {
		closeQuietly(conn)
		return nil, nil, fmt.Errorf("hear `teleswap up`: %w", err)
	}
	// When up dies our standard error is a pipe that nobody reads, and a word to it would end us before the swap is restored
	// (os/signal, "SIGPIPE").
	signal.Notify(o.sigpipe, syscall.SIGPIPE)
	return o, first.Env, nil
}

// follow makes signals of up's orders, and of its death. The goroutine ends with the connection.
func (o *overseer) follow(signals chan<- os.Signal) {
	if o == nil {
		return
	}
	go func() {
		for {
			var order upOrder
			if err := o.orders.Decode(&order); err != nil {
				break
			}
			if sig, ok := upEndings[order.End]; ok {
				signals <- sig
			}
		}
		o.mu.Lock()
		ended := o.closed
		o.mu.Unlock()
		if !ended {
			signals <- upGone{}
		}
	}()
}

func (o *overseer) tell(r upReport) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.conn.SetWriteDeadline(time.Now().Add(upPatience))
	_ = o.lines.Encode(r) // where up is gone, follow says so
}

func (o *overseer) stage(s upStage) { o.tell(upReport{Stage: s}) }

func (o *overseer) step(s *api.Step) {
	o.tell(upReport{Step: &upStep{
		Name: s.GetName(), Detail: s.GetDetail(), Microseconds: s.GetMicroseconds(),
		Begins: s.GetState() == api.Step_STARTED, Failed: s.GetState() == api.Step_FAILED,
	}})
}

// end tells the verdict, and waits until up has heard it.
func (o *overseer) end(err error) {
	if o == nil {
		return
	}
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	var exit *exitError
	o.tell(upReport{End: &upEnding{Status: exitStatus(err), Clean: err == nil || errors.As(err, &exit) && exit.err == nil}})
	if unix, ok := o.conn.(*net.UnixConn); ok && unix.CloseWrite() == nil {
		_ = o.conn.SetReadDeadline(time.Now().Add(upPatience))
		_, _ = io.Copy(io.Discard, o.conn)
	}
	closeQuietly(o.conn)
	signal.Stop(o.sigpipe)
}
