// Package remote lets one process have another measure for it: requests and
// answers are lines of JSON on the other's standard input and output, which
// reach a process in any network namespace, also through what starts it.
//
// The end of the input ends the measuring process, so none is left behind
// when the bench dies.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/load"
)

// Kind names what is to be measured, by the methods of load.Client.
type Kind string

// The kinds of measurement.
const (
	Down      Kind = "down"
	Up        Kind = "up"
	RoundTrip Kind = "roundtrip"
	Connect   Kind = "connect"
	Burst     Kind = "burst"
	AwaitName Kind = "await-name"
	// cancel is sent by Probe.Do for a request that nobody waits for any more;
	// it has that request's ID, and no answer of its own.
	cancel Kind = "cancel"
)

// askPatience is how long one request for a name may take: connections to a
// target that is being restored are held rather than refused.
const askPatience = 20 * time.Second

// Request asks for one measurement. ID is set by Probe.Do.
type Request struct {
	ID      uint64 `json:"id"`
	Kind    Kind   `json:"kind"`
	Address string `json:"address"`
	// Count is the number of streams (down, up), the most connects (connect),
	// or the connections at once (burst).
	Count int `json:"count,omitempty"`
	// Duration is how long to measure; the bound of a phase (burst); or how
	// long to wait (await-name).
	Duration time.Duration `json:"duration"`
	// Name and Interval are for await-name.
	Name     string        `json:"name,omitempty"`
	Interval time.Duration `json:"interval,omitempty"`
}

// Answer is to the request of the same ID; the field of its kind is set. The
// first line of a probe is a Hello, with ID 0.
type Answer struct {
	ID      uint64        `json:"id"`
	Hello   *Hello        `json:"hello,omitempty"`
	Bulk    *load.Bulk    `json:"bulk,omitempty"`
	Latency *load.Latency `json:"latency,omitempty"`
	Burst   *load.Burst   `json:"burst,omitempty"`
	Awaited *load.Awaited `json:"awaited,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// Hello says who the measuring process is and since when it runs.
type Hello struct {
	PID int       `json:"pid"`
	At  time.Time `json:"at"`
}

// Serve answers requests of in on out, each as it is done, until in or ctx
// ends; then it stops what it measures and returns when that has ended. A
// reader that is blocked in in.Read does not keep it.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	lines := &lineWriter{out: json.NewEncoder(out)}
	if err := lines.write(Answer{Hello: &Hello{PID: os.Getpid(), At: time.Now()}}); err != nil {
		stop()
		return err
	}
	requests := make(chan Request)
	ended := make(chan error, 1)
	go func() { ended <- readRequests(ctx, in, requests) }()
	var (
		measures sync.WaitGroup
		done     = make(chan uint64)
		stops    = map[uint64]context.CancelFunc{}
	)
	defer measures.Wait()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case id := <-done:
			stops[id]()
			delete(stops, id)
		case r := <-requests:
			if r.Kind == cancel {
				if stopOne, ok := stops[r.ID]; ok {
					stopOne()
				}
				continue
			}
			one, stopOne := context.WithCancel(ctx)
			stops[r.ID] = stopOne
			measures.Go(func() {
				// A write fails when the reader is gone; then in ends as well.
				_ = lines.write(answer(one, r))
				select {
				case done <- r.ID:
				case <-ctx.Done():
				}
			})
		}
	}
}

func readRequests(ctx context.Context, in io.Reader, requests chan<- Request) error {
	decoder := json.NewDecoder(in)
	for {
		var r Request
		if err := decoder.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		select {
		case requests <- r:
		case <-ctx.Done():
			return nil
		}
	}
}

type lineWriter struct {
	mu  sync.Mutex // guards out
	out *json.Encoder
}

func (w *lineWriter) write(a Answer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.out.Encode(a); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

func answer(ctx context.Context, r Request) Answer {
	a := Answer{ID: r.ID}
	client := &load.Client{Address: r.Address}
	var err error
	switch r.Kind {
	case Down:
		a.Bulk, err = pointer(client.Down(ctx, r.Count, r.Duration))
	case Up:
		a.Bulk, err = pointer(client.Up(ctx, r.Count, r.Duration))
	case RoundTrip:
		a.Latency, err = pointer(client.RoundTrip(ctx, r.Duration))
	case Connect:
		a.Latency, err = pointer(client.Connect(ctx, r.Count, r.Duration))
	case Burst:
		a.Burst, err = pointer(client.Burst(ctx, r.Count, r.Duration), nil)
	case AwaitName:
		waitCtx, stop := context.WithTimeout(ctx, r.Duration)
		defer stop()
		a.Awaited, err = pointer(client.AwaitName(waitCtx, r.Name, r.Interval, askPatience))
	default:
		err = fmt.Errorf("unknown kind of measurement %q", r.Kind)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

// pointer is nil when there is an error: an answer has either.
func pointer[T any](v T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return &v, nil
}
