package tun

import (
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPair(t *testing.T) {
	a, b := Pair(1500)
	if a.MTU() != 1500 {
		t.Errorf("MTU %d", a.MTU())
	}
	if err := a.Write([][]byte{[]byte("head"), []byte("er")}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := b.Read(buf); err != nil || string(buf[:n]) != "header" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := a.Read(buf)
		ended <- err
	}()
	if err := errors.Join(b.Close(), b.Close(), a.Close()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read that waits: %v", err)
	}
	if err := b.Write([][]byte{{1}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a write after the end: %v", err)
	}
}
