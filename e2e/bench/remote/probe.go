package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ErrGone is returned once the measuring process has closed its output.
var ErrGone = errors.New("probe is gone")

// Probe is the asking end of a measuring process. Its methods are safe for
// concurrent use.
type Probe struct {
	hello Hello
	in    io.WriteCloser
	done  chan struct{} // closed when the reading goroutine has ended

	mu      sync.Mutex // guards what follows, and writing to in
	lastID  uint64
	waiting map[uint64]chan Answer
	err     error // why there will be no more answers
}

// NewProbe reads the Hello of a process that runs Serve: in is its standard
// input, out its standard output. It blocks until the Hello has come or out
// has ended, so who wants a bound on that closes out. Close closes in; the
// probe's one goroutine ends with out.
func NewProbe(in io.WriteCloser, out io.Reader) (*Probe, error) {
	decoder := json.NewDecoder(out)
	var first Answer
	if err := decoder.Decode(&first); err != nil {
		return nil, fmt.Errorf("read the probe's first line: %w", err)
	}
	if first.Hello == nil {
		return nil, errors.New("read the probe's first line: it is not a hello")
	}
	p := &Probe{hello: *first.Hello, in: in, done: make(chan struct{}), waiting: map[uint64]chan Answer{}}
	go p.read(decoder)
	return p, nil
}

// Hello is what the process said first.
func (p *Probe) Hello() Hello { return p.hello }

// Done is closed when the process has closed its output.
func (p *Probe) Done() <-chan struct{} { return p.done }

func (p *Probe) read(decoder *json.Decoder) {
	defer close(p.done)
	for {
		var a Answer
		err := decoder.Decode(&a)
		p.mu.Lock()
		if err != nil {
			p.err = fmt.Errorf("%w: %w", ErrGone, err)
			for id, answers := range p.waiting {
				close(answers)
				delete(p.waiting, id)
			}
			p.mu.Unlock()
			return
		}
		if answers, ok := p.waiting[a.ID]; ok {
			answers <- a
			delete(p.waiting, a.ID)
		}
		p.mu.Unlock()
	}
}

// Do has one measurement made. The error is the measurement's own, ErrGone, or
// that of ctx, upon which the process stops that measurement.
func (p *Probe) Do(ctx context.Context, r Request) (Answer, error) {
	answers, err := p.send(&r)
	if err != nil {
		return Answer{}, err
	}
	select {
	case a, ok := <-answers:
		if !ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			return Answer{}, p.err
		}
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, r.ID)
		// If it cannot be told, the process is gone.
		_ = p.writeLocked(Request{ID: r.ID, Kind: cancel})
		return Answer{}, fmt.Errorf("%s %s: %w", r.Kind, r.Address, ctx.Err())
	}
}

func (p *Probe) send(r *Request) (<-chan Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	p.lastID++
	r.ID = p.lastID
	if err := p.writeLocked(*r); err != nil {
		return nil, err
	}
	answers := make(chan Answer, 1)
	p.waiting[r.ID] = answers
	return answers, nil
}

func (p *Probe) writeLocked(r Request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	return nil
}

// Close ends the process's input, upon which it ends. It does not wait: see
// Done.
func (p *Probe) Close() error { return p.in.Close() }
