//go:build unix

package tunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
)

// The benchmarks compare a connection through the tunnel (mutual TLS and all) with plain
// TCP on the same loopback, in one run:
//
//	go test -run '^$' -bench . -count 5 ./proxy/tunnel

func plainDial(b *testing.B, addr string) net.Conn {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

type dialFunc func(b *testing.B, addr string) net.Conn

func tunnelDial(b *testing.B) dialFunc {
	c := newRig(b, nil).connect(b)
	return func(b *testing.B, addr string) net.Conn {
		conn, err := c.DialContext(b.Context(), "tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		return conn
	}
}

// sink takes bytes and says after each connection's half-close how it ended.
func sink(b *testing.B) string {
	return serveBench(b, func(conn net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
	})
}

// source sends without end.
func source(b *testing.B) string {
	return serveBench(b, func(conn net.Conn) {
		block := make([]byte, 256<<10)
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
}

func serveBench(b *testing.B, serve func(net.Conn)) string {
	b.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	b.Cleanup(func() {
		_ = lis.Close()
		wg.Wait()
	})
	return lis.Addr().String()
}

const benchBlock = 64 << 10

func benchUp(b *testing.B, dial dialFunc, streams int) {
	addr := sink(b)
	b.SetBytes(benchBlock)
	each(b, streams, dial, addr, func(conn net.Conn, n int) error {
		block := make([]byte, benchBlock)
		for range n {
			if _, err := conn.Write(block); err != nil {
				return err
			}
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			return err
		}
		_, err := conn.Read(block[:1]) // all has arrived
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	})
}

func benchDown(b *testing.B, dial dialFunc, streams int) {
	addr := source(b)
	b.SetBytes(benchBlock)
	each(b, streams, dial, addr, func(conn net.Conn, n int) error {
		block := make([]byte, benchBlock)
		left := n * benchBlock
		for left > 0 {
			n, err := conn.Read(block)
			if err != nil {
				return err
			}
			left -= n
		}
		return nil
	})
}

// each runs the work on several connections at once.
func each(b *testing.B, streams int, dial dialFunc, addr string, work func(net.Conn, int) error) {
	conns := make([]net.Conn, streams)
	for i := range conns {
		conns[i] = dial(b, addr)
		defer func() { _ = conns[i].Close() }()
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, conn := range conns {
		wg.Go(func() {
			if err := work(conn, b.N/streams+1); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

func benchRoundTrip(b *testing.B, dial dialFunc) {
	conn := dial(b, echoServer(b))
	defer func() { _ = conn.Close() }()
	var one [1]byte
	b.ResetTimer()
	for range b.N {
		if _, err := conn.Write(one[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one[:]); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}

func benchConnect(b *testing.B, dial dialFunc) {
	addr := echoServer(b)
	b.ResetTimer()
	for range b.N {
		conn := dial(b, addr)
		var one [1]byte
		if _, err := conn.Write(one[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one[:]); err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
	b.StopTimer()
}

func BenchmarkTunnel(b *testing.B) {
	ways := []struct {
		name string
		dial func(*testing.B) dialFunc
	}{
		{"plain", func(*testing.B) dialFunc { return plainDial }},
		{"tunnel", tunnelDial},
	}
	works := []struct {
		name string
		run  func(*testing.B, dialFunc)
	}{
		{"up1", func(b *testing.B, d dialFunc) { benchUp(b, d, 1) }},
		{"up8", func(b *testing.B, d dialFunc) { benchUp(b, d, 8) }},
		{"down1", func(b *testing.B, d dialFunc) { benchDown(b, d, 1) }},
		{"down8", func(b *testing.B, d dialFunc) { benchDown(b, d, 8) }},
		{"roundtrip", benchRoundTrip},
		{"connect", benchConnect},
	}
	for _, work := range works {
		for _, way := range ways {
			b.Run(work.name+"/"+way.name, func(b *testing.B) {
				dial := way.dial(b)
				before := cpuTime(b)
				work.run(b, dial)
				// Of all parts together: steadier than the clock where others use the machine.
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// cpuTime is what this process has used, in nanoseconds.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
