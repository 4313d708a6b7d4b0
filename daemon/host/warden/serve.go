package warden

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

// orderTime bounds one order, and the undo of one.
const orderTime = 20 * time.Second

// Effects are what a warden does to the machine. They are functions so that the rest can be tested anywhere.
type Effects struct {
	// MakeDevice makes a network device; it lasts as long as a descriptor of it is open.
	MakeDevice func(d Device) (*os.File, error)
	// DeleteDevice deletes one, if it is there.
	DeleteDevice func(name string) error
	Route        func(r Routes) error
	// Listen opens the sockets of one address: UDP, TCP.
	Listen func(ctx context.Context, addr netip.Addr) ([]*os.File, error)
	// Resolver are the effects on the machine's resolver.
	Resolver osdns.Effects
}

// answer is what a warden says to an order. Files come with it.
type answer struct{ Error string }

// conn carries orders and answers. take returns io.EOF when the daemon has gone.
type conn interface {
	take() (Order, error)
	tell(a answer, files ...*os.File) error
}

// errEnd ends serving as asked.
var errEnd = errors.New("the end was asked for")

// warden does what it is told.
type warden struct {
	dir  string
	fx   Effects
	uid  int // for whom
	book *book
}

// serve obeys until the end is asked for, or the daemon has gone; then it undoes everything. The end of ctx is the daemon's.
func (w *warden) serve(ctx context.Context, c conn) error {
	var err error
	for err == nil {
		var o Order
		if o, err = c.take(); err != nil {
			break
		}
		var files []*os.File
		files, err = w.obey(ctx, o)
		if errors.Is(err, errEnd) {
			break
		}
		a := answer{}
		if err != nil {
			a.Error = err.Error()
		}
		err = c.tell(a, files...)
		for _, f := range files {
			_ = f.Close() // the daemon has its own now
		}
	}
	undone := w.undo(context.WithoutCancel(ctx))
	switch {
	case errors.Is(err, errEnd):
		a := answer{}
		if undone != nil {
			a.Error = undone.Error()
		}
		return errors.Join(undone, c.tell(a))
	case errors.Is(err, io.EOF):
		return undone
	}
	return errors.Join(err, undone)
}

// obey does one order. Its error is the answer, but errEnd.
func (w *warden) obey(ctx context.Context, o Order) ([]*os.File, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("refused: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	switch {
	case o.End != nil:
		return nil, errEnd
	case o.Begin != nil:
		return nil, w.begin(ctx, *o.Begin)
	case w.book == nil:
		return nil, errors.New("refused: nothing was begun")
	case o.Device != nil:
		if err := w.book.add(Step{Device: o.Device.Name}); err != nil {
			return nil, err
		}
		f, err := w.fx.MakeDevice(*o.Device)
		if err != nil {
			return nil, err
		}
		return []*os.File{f}, nil
	case o.Listen != nil:
		return w.fx.Listen(ctx, o.Listen.Addr) // gone with the descriptors
	case o.Routes != nil:
		if !slices.ContainsFunc(w.book.Steps, func(s Step) bool { return s.Device == o.Routes.Device }) {
			return nil, fmt.Errorf("refused: device %s was not made here", o.Routes.Device)
		}
		return nil, w.fx.Route(*o.Routes) // gone with the device
	default:
		u, err := osdns.Plan(w.fx.Resolver, *o.Resolver)
		if err == nil {
			err = w.book.add(Step{Resolver: &u})
		}
		if err == nil {
			err = osdns.Apply(ctx, w.fx.Resolver, *o.Resolver, u)
		}
		return nil, err
	}
}

// begin takes the record. What a dead warden has left in it is undone first.
func (w *warden) begin(ctx context.Context, b Begin) error {
	if w.book != nil {
		return errors.New("refused: it was begun already")
	}
	book, err := openBook(w.dir)
	if errors.Is(err, ErrHeld) {
		r, _ := Read(w.dir) // damaged: it says nothing
		return fmt.Errorf("this machine is connected as a whole already: %s, by user %d since %s", r.About, r.UID, r.Since.Local().Format(time.DateTime))
	}
	if err != nil {
		return err
	}
	if err := revert(ctx, w.fx, book); err != nil {
		return errors.Join(err, book.close())
	}
	book.Record = Record{Session: b.Session, About: b.About, UID: w.uid, PID: os.Getpid(), Since: time.Now().Truncate(time.Second)}
	if err := book.write(); err != nil {
		return errors.Join(err, book.close())
	}
	w.book = book
	return nil
}

// undo takes everything back and forgets it.
func (w *warden) undo(ctx context.Context) error {
	if w.book == nil {
		return nil
	}
	book := w.book
	w.book = nil
	if err := revert(ctx, w.fx, book); err != nil {
		return errors.Join(err, book.close())
	}
	return book.forget()
}

// revert undoes what the record says, the last first. What cannot be undone stays in the record; the rest is done all the same.
func revert(ctx context.Context, fx Effects, b *book) error {
	var errs []error
	for _, s := range slices.Backward(b.Steps) {
		ctx, cancel := context.WithTimeout(ctx, orderTime)
		switch {
		case s.Resolver != nil:
			errs = append(errs, osdns.Revert(ctx, fx.Resolver, *s.Resolver))
		case devices().MatchString(s.Device):
			errs = append(errs, fx.DeleteDevice(s.Device))
		default:
			errs = append(errs, fmt.Errorf("device %q in the record is not ours", s.Device))
		}
		cancel()
	}
	return errors.Join(errs...)
}

// recoverIn undoes what a dead warden has left. It does nothing where there is no record, or a living one holds it.
func recoverIn(ctx context.Context, dir string, fx Effects) (Record, error) {
	if !LeftBehind(dir) {
		return Record{}, nil
	}
	b, err := openBook(dir)
	if errors.Is(err, ErrHeld) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, err
	}
	was := b.Record
	if err := revert(ctx, fx, b); err != nil {
		return was, errors.Join(err, b.close())
	}
	return was, b.forget()
}
