package warden

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// join brings a warden on a machine in memory to a listener, as obeyDaemon does.
func join(t *testing.T, socket, id string, w *warden) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { // ends with the connection
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if err == nil {
			err = send(c, greeting{ID: id})
		}
		var taken answer
		if err == nil {
			_, err = receive(c, &taken)
		}
		if err == nil {
			err = w.serve(context.WithoutCancel(t.Context()), daemonConn{c})
		}
		if c != nil {
			_ = c.Close()
		}
		ended <- err
	}()
	return ended
}

func TestOrdersAndDescriptorsTravel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a warden is root: run this test as root")
	}
	socket := filepath.Join(t.TempDir(), "host.sock")
	l, err := ListenWardens(socket)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine()
	dir := filepath.Join(t.TempDir(), "teleswap")
	ended := join(t, socket, "one", &warden{dir: dir, fx: m.fx(t)})
	w, err := l.Await(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	o := orders()
	if err := w.Begin(t.Context(), *o[0].Begin); err != nil {
		t.Fatal(err)
	}
	f, err := w.MakeDevice(t.Context(), *o[1].Device)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("the device that came: %v, %v", info, err)
	}
	if err := errors.Join(f.Close(), w.Route(t.Context(), *o[2].Routes), w.SetResolver(t.Context(), *o[3].Resolver)); err != nil {
		t.Fatal(err)
	}
	if err := w.Route(t.Context(), Routes{Device: "eth0"}); err == nil {
		t.Error("what is refused did not come back as an error")
	}
	if err := w.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || m.asBefore() != "" || m.effects != 5 {
		t.Errorf("%v; %s; %d effects", err, m.asBefore(), m.effects)
	}
	<-w.Gone()
	// One that nobody asks for is let go with the listener.
	ended = join(t, socket, "two", &warden{dir: dir, fx: m.fx(t)})
	for {
		l.mu.Lock()
		waits := len(l.waiting["two"]) == 1
		l.mu.Unlock()
		if waits {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := l.Await(t.Context(), "two"); err == nil {
		t.Error("a closed listener gave a warden")
	}
}
