package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

func TestDrain(t *testing.T) {
	t.Parallel()
	p := startPod(t, nil)
	c := p.connect(t)
	wait, release := context.WithCancel(t.Context())
	defer release()
	accept(t, c, func(in *tunnel.Inbound) {
		conn, err := in.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		b := make([]byte, 5)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			if string(b[:n]) == "slow?" {
				<-wait.Done()
				n = copy(b, "slow")
			}
			_, _ = conn.Write(b[:n])
		}
	})
	idle, err := openAndEcho(p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	conn, err := net.Dial("tcp", p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("slow?")); err != nil {
		t.Fatal(err)
	}
	p.stop()
	select {
	case e := <-c.Events():
		if s, ok := e.(tunnel.PodShutdown); !ok || s.Grace != 10*time.Second {
			t.Errorf("got %#v", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	// New connections are served on, and so is the open one.
	if answer, err := ask(t, p.addr(targetPort)); answer != "hello" || err != nil {
		t.Errorf("while draining got %q, %v", answer, err)
	}
	select {
	case err := <-p.done:
		t.Fatalf("ended with a connection open: %v", err)
	case <-time.After(quiet + 2*idleSilence):
	}
	if e := <-c.Events(); e != (tunnel.Quiet{}) {
		t.Errorf("got %#v", e)
	}
	// The one that was owed an answer gets it; then it is idle, and closed.
	release()
	_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	if answer, err := io.ReadAll(conn); string(answer) != "slow" || err != nil {
		t.Errorf("open connection got %q, %v", answer, err)
	}
	// The idle one was closed long since.
	_ = idle.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection got %v", err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			t.Error(err)
		}
		p.done <- nil
	case <-time.After(8 * time.Second): // well below the grace
		t.Error("does not end although all is quiet")
	}
}

func TestDrainGraceIsABound(t *testing.T) {
	t.Parallel()
	p := startPod(t, func(c *Config) { c.Grace = 300 * time.Millisecond })
	c := p.connect(t)
	accept(t, c, echo(t))
	conn, err := openAndEcho(p.addr(targetPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{7}); err != nil { // which it does not read the echo of
		t.Fatal(err)
	}
	p.stop()
	select {
	case err := <-p.done:
		if err != nil {
			t.Error(err)
		}
		p.done <- nil
	case <-time.After(15 * time.Second):
		t.Error("an open connection keeps the agent beyond its grace")
	}
}
