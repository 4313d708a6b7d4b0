package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/stats"
)

// patience is how long an exchange may take beyond its own duration before it
// counts as hanging.
const patience = 20 * time.Second

// Client measures against a Server at Address (host:port). The zero Dialer is
// a plain one. It is safe for concurrent use.
type Client struct {
	Address string
	Dialer  net.Dialer
}

// Bulk is what a bulk transfer moved, and the time from its start to the
// receipt of its last byte.
type Bulk struct {
	Bytes   int64
	Elapsed time.Duration
}

// Rate is in MiB/s.
func (b Bulk) Rate() float64 {
	if b.Elapsed <= 0 {
		return 0
	}
	return float64(b.Bytes) / (1 << 20) / b.Elapsed.Seconds()
}

// Latency sums up repeated short exchanges.
type Latency struct {
	Count    int
	P50, P99 time.Duration
}

// Burst is what became of many connections opened at once.
type Burst struct {
	Wanted int
	// Opened counts connections that were dialled and had a first byte echoed.
	Opened int
	// Alive counts connections that had a second byte echoed while all those
	// opened were open.
	Alive int
	// Elapsed runs from the first dial to the last first echo (or failure).
	Elapsed time.Duration
	// FirstError is the first failure, empty without one.
	FirstError string
}

// open dials and sends the header. Until the returned function is called, the
// end of ctx closes the connection; limit bounds everything done on it.
func (c *Client) open(ctx context.Context, h header, limit time.Duration) (net.Conn, func(), error) {
	dialCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := c.Dialer.DialContext(dialCtx, "tcp", c.Address)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	done := func() {
		stop()
		_ = conn.Close()
	}
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		done()
		return nil, nil, fmt.Errorf("set deadline: %w", err)
	}
	if _, err := conn.Write(h.encode()); err != nil {
		done()
		return nil, nil, fmt.Errorf("send header: %w", err)
	}
	return conn, done, nil
}

// Down receives for the duration over the number of streams.
func (c *Client) Down(ctx context.Context, streams int, d time.Duration) (Bulk, error) {
	return c.bulk(ctx, header{mode: modeSource, duration: d}, streams, func(conn net.Conn) (int64, error) {
		if _, err := conn.Write([]byte{goByte}); err != nil {
			return 0, fmt.Errorf("say go: %w", err)
		}
		return receiveChunks(conn)
	})
}

// Up sends for the duration over the number of streams. The bytes are those
// that the server counted.
func (c *Client) Up(ctx context.Context, streams int, d time.Duration) (Bulk, error) {
	return c.bulk(ctx, header{mode: modeSink, duration: d}, streams, func(conn net.Conn) (int64, error) {
		sent, err := sendChunks(conn, d)
		if err != nil {
			return 0, err
		}
		var b [8]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return 0, fmt.Errorf("receive count: %w", err)
		}
		if got := int64(binary.BigEndian.Uint64(b[:])); got != sent {
			return 0, fmt.Errorf("server counted %d bytes of %d sent", got, sent)
		}
		return sent, nil
	})
}

// bulk opens all streams, waits until the server has answered on each, and
// only then lets them run.
func (c *Client) bulk(ctx context.Context, h header, streams int, run func(net.Conn) (int64, error)) (Bulk, error) {
	conns := make([]net.Conn, 0, streams)
	for i := range streams {
		conn, done, err := c.open(ctx, h, h.duration+patience)
		if err != nil {
			return Bulk{}, fmt.Errorf("open stream %d: %w", i, err)
		}
		defer done()
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return Bulk{}, fmt.Errorf("open stream %d: wait for the server: %w", i, err)
		}
		conns = append(conns, conn)
	}
	var (
		runs  sync.WaitGroup
		bytes = make([]int64, streams)
		errs  = make([]error, streams)
		start = time.Now()
	)
	for i, conn := range conns {
		runs.Go(func() {
			if bytes[i], errs[i] = run(conn); errs[i] != nil {
				errs[i] = fmt.Errorf("stream %d: %w", i, errs[i])
			}
		})
	}
	runs.Wait()
	sum := Bulk{Elapsed: time.Since(start)}
	for _, n := range bytes {
		sum.Bytes += n
	}
	return sum, errors.Join(errs...)
}

// RoundTrip sends one byte and waits for it, again and again for the duration,
// on one connection.
func (c *Client) RoundTrip(ctx context.Context, d time.Duration) (Latency, error) {
	conn, done, err := c.open(ctx, header{mode: modeEcho}, d+patience)
	if err != nil {
		return Latency{}, err
	}
	defer done()
	// The first exchange waits for the far end's dial: not a round trip yet.
	if err := pingPong(conn); err != nil {
		return Latency{}, fmt.Errorf("first round trip: %w", err)
	}
	var samples []time.Duration
	for begin := time.Now(); time.Since(begin) < d || len(samples) == 0; {
		start := time.Now()
		if err := pingPong(conn); err != nil {
			return Latency{}, fmt.Errorf("round trip %d: %w", len(samples)+1, err)
		}
		samples = append(samples, time.Since(start))
	}
	return summarise(samples), nil
}

// Connect dials, has one byte echoed and closes, again and again for the
// duration, but at most limit times: closed connections keep their port for a
// minute, and the ports must last.
func (c *Client) Connect(ctx context.Context, limit int, d time.Duration) (Latency, error) {
	var samples []time.Duration
	for begin := time.Now(); len(samples) < limit && (time.Since(begin) < d || len(samples) == 0); {
		start := time.Now()
		conn, done, err := c.open(ctx, header{mode: modeEcho}, patience)
		if err != nil {
			return Latency{}, fmt.Errorf("connect %d: %w", len(samples)+1, err)
		}
		err = pingPong(conn)
		samples = append(samples, time.Since(start))
		done()
		if err != nil {
			return Latency{}, fmt.Errorf("connect %d: %w", len(samples), err)
		}
	}
	return summarise(samples), nil
}

func pingPong(conn net.Conn) error {
	b := [1]byte{'.'}
	if _, err := conn.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, b[:])
	return err
}

func summarise(samples []time.Duration) Latency {
	return Latency{
		Count: len(samples),
		P50:   stats.Percentile(samples, 50),
		P99:   stats.Percentile(samples, 99),
	}
}

// Burst opens count connections at once and keeps them open until each has
// answered or failed; limit bounds each of its two phases. Failing connections
// are counted, not returned as an error.
func (c *Client) Burst(ctx context.Context, count int, limit time.Duration) Burst {
	var (
		result = Burst{Wanted: count}
		mu     sync.Mutex
		conns  []net.Conn
		closes []func()
		phase  sync.WaitGroup
	)
	fail := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if result.FirstError == "" {
			result.FirstError = fmt.Sprintf("%s: %v", what, err)
		}
	}
	start := time.Now()
	for range count {
		phase.Go(func() {
			conn, done, err := c.open(ctx, header{mode: modeEcho}, limit)
			if err != nil {
				fail("open", err)
				return
			}
			mu.Lock()
			closes = append(closes, done)
			mu.Unlock()
			if err := pingPong(conn); err != nil {
				fail("first echo", err)
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		})
	}
	phase.Wait()
	result.Elapsed = time.Since(start)
	result.Opened = len(conns)
	for _, conn := range conns {
		phase.Go(func() {
			err := conn.SetDeadline(time.Now().Add(limit))
			if err == nil {
				err = pingPong(conn)
			}
			if err != nil {
				fail("second echo", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			result.Alive++
		})
	}
	phase.Wait()
	for _, done := range closes {
		done()
	}
	return result
}

// AskName dials and returns the name that the server answers.
func (c *Client) AskName(ctx context.Context, limit time.Duration) (string, error) {
	conn, done, err := c.open(ctx, header{mode: modeName}, limit)
	if err != nil {
		return "", err
	}
	defer done()
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return "", fmt.Errorf("receive name: %w", err)
	}
	name := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, name); err != nil {
		return "", fmt.Errorf("receive name: %w", err)
	}
	return string(name), nil
}
