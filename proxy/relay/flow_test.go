package relay

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// unsendable is a connection whose Write fails.
type unsendable struct {
	net.Conn
	err error
}

func (f unsendable) Write([]byte) (int, error) { return 0, f.err }

func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := net.Pipe()
		b, server := net.Pipe()
		f := &Flow{Idle: time.Minute}
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- f.Relay(a, b) }()
		buf := make([]byte, 16)
		for range 3 {
			time.Sleep(50 * time.Second) // less than Idle, and together more
			if _, err := client.Write([]byte("question")); err != nil {
				t.Fatal(err)
			}
			if n, err := server.Read(buf); err != nil || string(buf[:n]) != "question" {
				t.Fatalf("%q, %v", buf[:n], err)
			}
			if _, err := server.Write([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			if n, err := client.Read(buf); err != nil || string(buf[:n]) != "answer" {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took != 3*50*time.Second+time.Minute {
			t.Errorf("ended after %v", took)
		}
		if _, err := client.Write([]byte("x")); err == nil {
			t.Error("still open")
		}
	})
}

func TestFlowFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		write error
		want  error
	}{
		{"nobody takes them", syscall.ECONNREFUSED, syscall.ECONNREFUSED},
		{"too long", syscall.EMSGSIZE, nil},
		{"closed", net.ErrClosed, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, a := net.Pipe()
				b, server := net.Pipe()
				defer func() { _ = server.Close() }()
				done := make(chan error, 1)
				go func() { done <- new(Flow).Relay(a, unsendable{b, c.write}) }()
				if _, err := client.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				_ = client.Close()
				if err := <-done; !errors.Is(err, c.want) {
					t.Errorf("ended with %v, want %v", err, c.want)
				}
			})
		})
	}
}
