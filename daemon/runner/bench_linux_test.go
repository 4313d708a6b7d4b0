package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/teleswap/teleswap/proxy/netstack"
	"github.com/teleswap/teleswap/proxy/relay"
)

const (
	benchRounds  = 3000
	benchBytes   = 256 << 20
	benchConns   = 200
	benchBuffer  = 128 << 10
	benchStreams = 4
)

// measured is what one way gave. Times in microseconds, rates in MiB/s.
type measured struct{ RTT, Connect, Down, Up, Down4 float64 }

// measure measures a server of benchServe's by dial.
func measure(dial func() (net.Conn, error)) (m measured, err error) {
	if m.RTT, err = measureRTT(dial); err != nil {
		return m, err
	}
	if m.Connect, err = measureConnect(dial); err != nil {
		return m, err
	}
	if m.Down, err = measureBulk(dial, 'd', 1); err != nil {
		return m, err
	}
	if m.Up, err = measureBulk(dial, 'u', 1); err != nil {
		return m, err
	}
	m.Down4, err = measureBulk(dial, 'd', benchStreams)
	return m, err
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Nanoseconds()) / 1e3
}

func measureRTT(dial func() (net.Conn, error)) (float64, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	b := []byte{'e'}
	times := make([]time.Duration, benchRounds)
	for i := range times {
		at := time.Now()
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		times[i] = time.Since(at)
	}
	return median(times), nil
}

func measureConnect(dial func() (net.Conn, error)) (float64, error) {
	times := make([]time.Duration, benchConns)
	b := []byte{'e'}
	for i := range times {
		at := time.Now()
		c, err := dial()
		if err != nil {
			return 0, err
		}
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		times[i] = time.Since(at)
		_ = c.Close()
	}
	return median(times), nil
}

func measureBulk(dial func() (net.Conn, error), what byte, streams int) (float64, error) {
	var wg sync.WaitGroup
	errs := make(chan error, streams)
	at := time.Now()
	for range streams {
		wg.Go(func() {
			c, err := dial()
			if err != nil {
				errs <- err
				return
			}
			defer func() { _ = c.Close() }()
			if _, err := c.Write([]byte{what}); err != nil {
				errs <- err
				return
			}
			buf := make([]byte, benchBuffer)
			if what == 'd' {
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(c, int64(benchBytes/streams))}, buf)
			} else {
				for n := 0; n < benchBytes && err == nil; n += len(buf) {
					_, err = c.Write(buf)
				}
				if err == nil {
					_ = c.(interface{ CloseWrite() error }).CloseWrite()
					_, err = io.ReadFull(c, buf[:1]) // it has all arrived
				}
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(benchBytes>>20) / time.Since(at).Seconds(), nil
}

// benchServe answers connections whose first byte says what they want: echo, down or up.
func benchServe(lis net.Listener) {
	for {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			buf := make([]byte, benchBuffer)
			if _, err := io.ReadFull(c, buf[:1]); err != nil {
				return
			}
			switch buf[0] {
			case 'e':
				_, _ = c.Write(buf[:1])
				for {
					if _, err := io.ReadFull(c, buf[:1]); err != nil {
						return
					}
					if _, err := c.Write(buf[:1]); err != nil {
						return
					}
				}
			case 'd':
				for err == nil {
					_, err = c.Write(buf)
				}
			case 'u':
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
				_, _ = c.Write(buf[:1])
			}
		}()
	}
}

// childMeasure measures ADDRESS and prints it as JSON.
func childMeasure(addr string) int {
	m, err := measure(func() (net.Conn, error) { return net.Dial("tcp", addr) })
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(m)
	return 0
}

func childBenchServe(addr string) int {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("listening")
	go benchServe(lis)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// BenchmarkSandbox measures what the sandbox costs, against plain loopback TCP in the same run:
//
//	go test -run '^$' -bench Sandbox -benchtime 5x ./daemon/runner
func BenchmarkSandbox(b *testing.B) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	go benchServe(lis)
	server := lis.Addr().String()
	runs := map[string][]measured{}
	for b.Loop() {
		runs["loopback"] = append(runs["loopback"], benchTwoProcesses(b, server))
		runs["outbound"] = append(runs["outbound"], benchOutbound(b, server))
		runs["inbound"] = append(runs["inbound"], benchInbound(b))
		runs["relay"] = append(runs["relay"], benchRelay(b, server))
	}
	for _, name := range []string{"loopback", "relay", "outbound", "inbound"} {
		mid := func(f func(measured) float64) float64 {
			var v []float64
			for _, m := range runs[name] {
				v = append(v, f(m))
			}
			slices.Sort(v)
			return v[len(v)/2]
		}
		b.Logf("%-9s rtt %6.1f us  connect+echo %7.1f us  down %5.0f MiB/s  up %5.0f MiB/s  down4 %5.0f MiB/s", name,
			mid(func(m measured) float64 { return m.RTT }), mid(func(m measured) float64 { return m.Connect }),
			mid(func(m measured) float64 { return m.Down }), mid(func(m measured) float64 { return m.Up }),
			mid(func(m measured) float64 { return m.Down4 }))
	}
}

// benchTwoProcesses measures from a process of its own, as the sandbox's is, but without the sandbox.
func benchTwoProcesses(b *testing.B, server string) (m measured) {
	cmd := exec.Command(os.Args[0], childArg, "measure", server)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		b.Fatal(err)
	}
	return m
}

// benchRelay is what the relay alone costs.
func benchRelay(b *testing.B, server string) measured {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	go func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				d, err := net.Dial("tcp", server)
				if err == nil {
					_ = relay.Relay(c, d)
				}
			}()
		}
	}()
	return benchTwoProcesses(b, lis.Addr().String())
}

func benchOutbound(b *testing.B, server string) (m measured) {
	l := newLab(b, func(c *netstack.Config) { c.DialTCP = dialTo(server) })
	defer l.end()
	out, exit := l.start(l.spec("measure", "10.96.0.1:80")).output()
	if exit.Code != 0 {
		b.Fatal(out)
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		b.Fatal(err)
	}
	return m
}

func benchInbound(b *testing.B) measured {
	l := newLab(b, nil)
	defer l.end()
	p := l.start(l.spec("benchserve", "0.0.0.0:8080"))
	p.line()
	<-l.taken
	port := uint16(20000)
	m, err := measure(func() (net.Conn, error) {
		port++
		return l.stack.DialTCP(context.Background(), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port),
			netip.MustParseAddrPort("10.42.0.7:8080"))
	})
	if err != nil {
		b.Fatal(err)
	}
	_ = p.stdin.Close()
	_, _ = p.Wait()
	return m
}
