package main

import (
	"context"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/runner"
)

// fakeProcess ends by SIGKILL, and notes what it is sent.
type fakeProcess struct {
	done chan struct{}

	mu   sync.Mutex
	sent []os.Signal
}

func (p *fakeProcess) Pid() int                  { return 42 }
func (p *fakeProcess) Keys() <-chan os.Signal    { return nil }
func (p *fakeProcess) RunHook(runner.Hook) error { return nil }
func (p *fakeProcess) OwnTerminal() bool         { return false }
func (p *fakeProcess) Done() <-chan struct{}     { return p.done }

func (p *fakeProcess) Wait() (runner.Exit, error) {
	<-p.done
	return runner.Exit{Code: statusSignal + int(syscall.SIGKILL), Signal: syscall.SIGKILL}, nil
}

func (p *fakeProcess) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, sig)
	if sig == syscall.SIGKILL {
		close(p.done)
	}
	return nil
}

func (p *fakeProcess) signals() []os.Signal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

// fakeStream notes what the daemon is told.
type fakeStream struct{ told []*api.SwapUp }

func (f *fakeStream) Send(up *api.SwapUp) error {
	f.told = append(f.told, up)
	return nil
}
func (f *fakeStream) Recv() (*api.Event, error) { return nil, io.EOF }
func (f *fakeStream) CloseSend() error          { return nil }

// TestToldToEndWhileStarting: the word comes when the start has succeeded, and the loop does not know it yet.
func TestToldToEndWhileStarting(t *testing.T) {
	for _, tc := range []struct {
		name  string
		words []time.Duration // the grace of each
		want  time.Duration   // until SIGKILL
	}{
		{"the session ends", []time.Duration{0}, killAfterTerm},
		{"the pod ends, and then the session", []time.Duration{3 * time.Second, 0}, 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stream := &fakeProcess{done: make(chan struct{})}, &fakeStream{}
				s := &swapping{ui: &progress{w: io.Discard}, stream: stream, req: &api.SwapRequest{}, child: newChild()}
				s.child.start(t.Context(), func(context.Context, runner.Stdio) (process, error) { return p, nil }, streams{}, nil)
				synctest.Wait() // the result is there, and nobody has taken it
				for _, grace := range tc.words {
					s.event(t.Context(), &api.Event{Event: &api.Event_StopChild{StopChild: &api.StopChild{
						Reason: "it ends", GraceMilliseconds: grace.Milliseconds(),
					}}})
				}
				s.childStarted(<-s.child.started)
				defer func() { // also of a process that nobody has told anything
					if s.child.running() {
						_ = p.Signal(syscall.SIGKILL)
						<-s.child.exited
					}
				}()
				if got := p.signals(); !slices.Equal(got, []os.Signal{syscall.SIGTERM}) {
					t.Fatalf("the process was sent %v, want SIGTERM", got)
				}
				began := time.Now()
				<-s.child.timer.C
				if got := time.Since(began); got != tc.want {
					t.Errorf("its grace is %v, want %v", got, tc.want)
				}
				s.child.nextRung(s.ui)
				s.childExited(<-s.child.exited)
				if len(stream.told) != 2 || stream.told[0].GetChildStarted().GetPid() != 42 || stream.told[1].GetChildExited().GetSignal() != int32(syscall.SIGKILL) {
					t.Errorf("the daemon was told %v, want the start and the end", stream.told)
				}
			})
		})
	}
}
