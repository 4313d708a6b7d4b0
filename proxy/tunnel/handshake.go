package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// greeting is the byte that the agent sends once it has verified the laptop's
// certificate. In TLS 1.3 a client is done before the server has looked at its
// certificate: without it, a refusal would only show later and elsewhere.
const greeting = protocolVersion

// ClientHandshake returns the laptop's side of mutual TLS on a raw connection to the
// agent. It owns the raw connection: it is closed with the returned one, and on failure.
func ClientHandshake(cfg *tls.Config) func(context.Context, net.Conn) (net.Conn, error) {
	return func(ctx context.Context, raw net.Conn) (net.Conn, error) {
		batch := newBatchConn(raw)
		conn := tls.Client(batch, cfg)
		if err := handshake(ctx, raw, func() error {
			if err := conn.HandshakeContext(ctx); err != nil {
				return err
			}
			return readGreeting(conn)
		}); err != nil {
			return nil, fmt.Errorf("tls handshake with the agent: %w", err)
		}
		return &secureConn{Conn: conn, batch: batch}, nil
	}
}

// ServerHandshake is the agent's side, of the same ownership.
func ServerHandshake(cfg *tls.Config) func(context.Context, net.Conn) (net.Conn, error) {
	return func(ctx context.Context, raw net.Conn) (net.Conn, error) {
		batch := newBatchConn(raw)
		conn := tls.Server(batch, cfg)
		if err := handshake(ctx, raw, func() error {
			if err := conn.HandshakeContext(ctx); err != nil {
				return err
			}
			_, err := conn.Write([]byte{greeting})
			return err
		}); err != nil {
			return nil, fmt.Errorf("tls handshake with the laptop: %w", err)
		}
		return &secureConn{Conn: conn, batch: batch}, nil
	}
}

// handshake runs shake, ending it with ctx, and closes raw where it fails.
func handshake(ctx context.Context, raw net.Conn, shake func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	err := shake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return nil
	}
	_ = raw.Close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func readGreeting(conn net.Conn) error {
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("it closed the connection instead of greeting")
		}
		return err
	}
	if b[0] != greeting {
		return fmt.Errorf("the agent speaks version %d of the protocol, this program version %d", b[0], greeting)
	}
	return nil
}

// batchConn stands between TLS and the transport. crypto/tls writes each record (16 KiB)
// by itself and reads hardly more at a time; a system call each, or a WebSocket message
// each, is what the time goes to. So records are gathered while one large write is
// made, and reads are buffered.
type batchConn struct {
	net.Conn
	reader *bufio.Reader

	mu      sync.Mutex // TLS may write an alert at any time
	gather  bool
	pending []byte
}

func newBatchConn(raw net.Conn) *batchConn {
	return &batchConn{Conn: raw, reader: bufio.NewReaderSize(raw, ioBuffer)}
}

func (c *batchConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

func (c *batchConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gather {
		c.pending = append(c.pending, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *batchConn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gather = true
}

func (c *batchConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gather = false
	_, err := c.Conn.Write(c.pending)
	c.pending = c.pending[:0]
	return err
}

// secureConn is a TLS connection whose large writes reach the transport in one piece.
type secureConn struct {
	*tls.Conn
	batch   *batchConn
	writeMu sync.Mutex
}

// oneRecord is the plaintext of one TLS record.
const oneRecord = 16 << 10

func (c *secureConn) Write(p []byte) (int, error) {
	if len(p) <= oneRecord {
		return c.Conn.Write(p)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.batch.begin()
	n, err := c.Conn.Write(p)
	if ferr := c.batch.flush(); err == nil {
		err = ferr
	}
	return n, err
}

// Close closes the transport below too, though it may hang: TLS's own close waits up
// to five seconds to say goodbye, which nobody here waits for.
func (c *secureConn) Close() error { return c.batch.Close() }
