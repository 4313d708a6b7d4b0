package remote_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/e2e/bench/load"
	"github.com/teleswap/teleswap/e2e/bench/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs Serve behind pipes until the test ends.
func start(t *testing.T) *remote.Probe {
	t.Helper()
	inRead, inWrite := io.Pipe()
	outRead, outWrite := io.Pipe()
	served := make(chan error, 1)
	go func() {
		err := remote.Serve(t.Context(), inRead, outWrite)
		_ = outWrite.Close()
		served <- err
	}()
	probe, err := remote.NewProbe(inWrite, outRead)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := probe.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		<-probe.Done()
	})
	return probe
}

func listen(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- (&load.Server{Name: "someone"}).Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return lis.Addr().String()
}

func TestEveryKind(t *testing.T) {
	address := listen(t)
	probe := start(t)
	if probe.Hello().PID == 0 || probe.Hello().At.IsZero() {
		t.Errorf("hello is %+v", probe.Hello())
	}
	for _, tc := range []struct {
		kind remote.Kind
		ok   func(remote.Answer) bool
	}{
		{remote.Down, func(a remote.Answer) bool { return a.Bulk != nil && a.Bulk.Bytes > 0 }},
		{remote.Up, func(a remote.Answer) bool { return a.Bulk != nil && a.Bulk.Bytes > 0 }},
		{remote.RoundTrip, func(a remote.Answer) bool { return a.Latency != nil && a.Latency.P50 > 0 }},
		{remote.Connect, func(a remote.Answer) bool { return a.Latency != nil && a.Latency.Count > 0 }},
		{remote.Burst, func(a remote.Answer) bool { return a.Burst != nil && a.Burst.Alive == 2 }},
		{remote.AwaitName, func(a remote.Answer) bool { return a.Awaited != nil && !a.Awaited.At.IsZero() }},
	} {
		t.Run(string(tc.kind), func(t *testing.T) {
			duration := 20 * time.Millisecond
			if tc.kind == remote.Burst || tc.kind == remote.AwaitName {
				duration = 10 * time.Second // a bound, not a length
			}
			a, err := probe.Do(t.Context(), remote.Request{
				Kind: tc.kind, Address: address, Count: 2, Duration: duration,
				Name: "someone", Interval: time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			if !tc.ok(a) {
				t.Errorf("got %+v", a)
			}
		})
	}
}

func TestErrorsComeBack(t *testing.T) {
	probe := start(t)
	_, err := probe.Do(t.Context(), remote.Request{Kind: "dance"})
	if err == nil || !strings.Contains(err.Error(), `unknown kind of measurement "dance"`) {
		t.Errorf("got error %v", err)
	}
}

func TestEndOfInputStopsMeasuring(t *testing.T) {
	address := listen(t)
	probe := start(t)
	result := make(chan error, 1)
	go func() {
		_, err := probe.Do(t.Context(), remote.Request{Kind: remote.Down, Address: address, Count: 1, Duration: time.Minute})
		result <- err
	}()
	// Some time for the request above to get there; it must fail wherever it is.
	if _, err := probe.Do(t.Context(), remote.Request{Kind: remote.Connect, Address: address, Count: 1, Duration: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil {
		t.Error("no error from a measurement that was cut short")
	}
	<-probe.Done()
	if _, err := probe.Do(t.Context(), remote.Request{Kind: remote.Connect}); !errors.Is(err, remote.ErrGone) {
		t.Errorf("afterwards: got error %v, want ErrGone", err)
	}
}

func TestCancelStopsMeasuring(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	probe := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := probe.Do(ctx, remote.Request{Kind: remote.Down, Address: lis.Addr().String(), Count: 1, Duration: time.Minute})
		result <- err
	}()
	conn, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
	// The measurement would last a minute; its connection ends now.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("read what the stopped measurement sent: %v", err)
	}
}

func TestNotAProbe(t *testing.T) {
	for name, out := range map[string]string{"empty": "", "something else": "listening on 8080\n", "no hello": "{\"id\":3}\n"} {
		t.Run(name, func(t *testing.T) {
			if _, err := remote.NewProbe(nil, strings.NewReader(out)); err == nil {
				t.Error("no error")
			}
		})
	}
}
