package tun

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// packets is a Device on one end of a packet socket pair, which reads and writes as a TUN device does.
func packets(t *testing.T) (Device, *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := FromFile(os.NewFile(uintptr(pair[0]), "device"), 1500)
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(pair[1]), "other")
	t.Cleanup(func() {
		_ = d.Close()
		_ = other.Close()
	})
	return d, other
}

func TestFile(t *testing.T) {
	d, other := packets(t)
	if err := d.Write([][]byte{[]byte("head"), []byte("er")}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := other.Read(buf); err != nil || string(buf[:n]) != "header" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	waiting := make(chan string, 1)
	go func() {
		b := make([]byte, 16)
		n, err := d.Read(b)
		if err != nil {
			waiting <- err.Error()
			return
		}
		waiting <- string(b[:n])
	}()
	if _, err := other.WriteString("packet"); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting; got != "packet" {
		t.Errorf("read %q", got)
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	d, _ := packets(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := d.Read(make([]byte, 16)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
	wg.Go(func() {
		var err error
		for err == nil { // until the queue is full and the write waits
			err = d.Write([][]byte{make([]byte, 1500)})
		}
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := d.Read(make([]byte, 16)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after the end: %v", err)
	}
}
