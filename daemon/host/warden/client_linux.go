package warden

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
	"github.com/teleswap/teleswap/dnsresolver/osdns"
	"github.com/teleswap/teleswap/proxy/accept"
)

const (
	// greetTime bounds how long a new warden may take to say who it is.
	greetTime = 5 * time.Second
	// keepTime is how long one that nobody asks for yet is kept: its session begins when the command behind it does.
	keepTime = 2 * time.Minute
)

// Listener receives wardens on a unix socket. It is safe for concurrent use.
type Listener struct {
	lis     *net.UnixListener
	serving sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting map[string]chan *Warden // by id; each takes one
}

// ListenWardens listens on a unix socket of mode 0600 at path; what is there already is replaced. The caller closes the listener.
func ListenWardens(path string) (*Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the wardens' socket: %w", err)
	}
	lis, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for wardens: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for wardens: %w", err), lis.Close())
	}
	l := &Listener{lis: lis, waiting: map[string]chan *Warden{}}
	l.serving.Go(l.acceptLoop)
	return l, nil
}

// Close ends the listener, and lets the wardens go that nobody has asked for.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	for _, ch := range l.waiting {
		select {
		case w := <-ch:
			_ = w.Close()
		default:
		}
	}
	l.mu.Unlock()
	err := l.lis.Close()
	l.serving.Wait()
	return err
}

// acceptLoop ends with the listener.
func (l *Listener) acceptLoop() {
	accept.Loop(l.lis, func(error) {}, func(conn net.Conn) {
		c := conn.(*net.UnixConn)
		l.serving.Go(func() {
			if w, id, err := greet(c); err != nil {
				_ = c.Close()
			} else if ch := l.slot(id); ch == nil {
				_ = w.Close()
			} else {
				select {
				case ch <- w:
				default: // there is one of this id already
					_ = w.Close()
				}
			}
		})
	})
}

// slot is where wardens of an id are left and found; nil when the listener is closed. It goes after a while.
func (l *Listener) slot(id string) chan *Warden {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	ch := l.waiting[id]
	if ch == nil {
		ch = make(chan *Warden, 1)
		l.waiting[id] = ch
		time.AfterFunc(keepTime, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.waiting, id)
			select {
			case w := <-ch:
				_ = w.Close()
			default:
			}
		})
	}
	return ch
}

// Await waits for the warden of this id. The caller closes it.
func (l *Listener) Await(ctx context.Context, id string) (*Warden, error) {
	ch := l.slot(id)
	if ch == nil {
		return nil, net.ErrClosed
	}
	select {
	case w := <-ch:
		return w, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// greet hears who a warden is. Only root's, or this user's own, is taken.
func greet(c *net.UnixConn) (*Warden, string, error) {
	peer, err := unixsock.Peer(c)
	if err != nil {
		return nil, "", err
	}
	if peer.Uid != 0 {
		return nil, "", fmt.Errorf("user %d is not root", peer.Uid)
	}
	_ = c.SetDeadline(time.Now().Add(greetTime))
	var hi greeting
	if _, err := receive(c, &hi); err != nil {
		return nil, "", err
	}
	if err := send(c, answer{}); err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Time{})
	w := &Warden{PID: int(peer.Pid), c: c, answers: make(chan told, 1), gone: make(chan struct{})}
	go w.hearLoop()
	return w, hi.ID, nil
}

// Warden is the daemon's end of one. Its methods are safe for concurrent use.
type Warden struct {
	PID int

	c       *net.UnixConn
	asking  sync.Mutex
	answers chan told
	gone    chan struct{} // closed when the warden has gone
}

type told struct {
	answer
	files []*os.File
}

// hearLoop takes in answers until the warden has gone.
func (w *Warden) hearLoop() {
	defer close(w.gone)
	for {
		var t told
		var err error
		if t.files, err = receive(w.c, &t.answer); err != nil {
			return
		}
		w.answers <- t // one for each order, and there is room for one
	}
}

// Gone is closed when the warden has ended, however.
func (w *Warden) Gone() <-chan struct{} { return w.gone }

// ErrGone says that the warden has ended.
var ErrGone = errors.New("root's part of the connection has ended")

// ask gives an order and waits for its answer.
func (w *Warden) ask(ctx context.Context, o Order) ([]*os.File, error) {
	w.asking.Lock()
	defer w.asking.Unlock()
	if err := send(w.c, o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case t := <-w.answers:
		if t.Error != "" {
			return nil, errors.New(t.Error)
		}
		return t.files, nil
	case <-w.gone:
		return nil, ErrGone
	case <-ctx.Done():
		_ = w.Close() // the answer would be taken for another order's; it undoes now
		return nil, context.Cause(ctx)
	}
}

// Begin opens the record. It fails while another machine-wide connection stands.
func (w *Warden) Begin(ctx context.Context, b Begin) error {
	_, err := w.ask(ctx, Order{Begin: &b})
	return err
}

// MakeDevice makes the device. The caller closes the file, and with it the device.
func (w *Warden) MakeDevice(ctx context.Context, d Device) (*os.File, error) {
	files, err := w.ask(ctx, Order{Device: &d})
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("%d descriptors for a device", len(files))
	}
	return files[0], nil
}

// Listen opens port 53 of an address. The caller closes both.
func (w *Warden) Listen(ctx context.Context, addr netip.Addr) (net.PacketConn, net.Listener, error) {
	files, err := w.ask(ctx, Order{Listen: &Listen{addr}})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if len(files) != 2 {
		return nil, nil, fmt.Errorf("%d descriptors for two sockets", len(files))
	}
	pc, err := net.FilePacketConn(files[0])
	if err != nil {
		return nil, nil, err
	}
	lis, err := net.FileListener(files[1])
	if err != nil {
		return nil, nil, errors.Join(err, pc.Close())
	}
	return pc, lis, nil
}

// Route leads prefixes to the device.
func (w *Warden) Route(ctx context.Context, r Routes) error {
	_, err := w.ask(ctx, Order{Routes: &r})
	return err
}

// SetResolver points the machine's resolver at ours.
func (w *Warden) SetResolver(ctx context.Context, c osdns.Change) error {
	_, err := w.ask(ctx, Order{Resolver: &c})
	return err
}

// End has everything undone; then the warden has gone. An error says what was not.
func (w *Warden) End(ctx context.Context) error {
	_, err := w.ask(ctx, Order{End: &End{}})
	return errors.Join(err, w.Close())
}

// Close lets the warden go, who then undoes what was not undone.
func (w *Warden) Close() error {
	err := w.c.Close()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
