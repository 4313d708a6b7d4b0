// Package serve answers DNS messages that arrive on sockets, by a function. It knows how messages travel (RFC 1035, RFC 7766), and
// nothing of what they say but how long an answer may be.
package serve

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/teleswap/teleswap/proxy/accept"
)

const (
	// maxQueries bounds the queries of one socket or connection that are under way; more wait in its buffer.
	maxQueries = 256
	// idle is how long a TCP connection to a nameserver may stay silent (RFC 7766 section 6.2.3 leaves it to us).
	idle = 60 * time.Second
	// maxConns bounds the TCP connections of one listener; more wait to be accepted.
	maxConns = 256
)

// Query answers one DNS message. An error means that nothing is answered.
type Query func(ctx context.Context, msg []byte) ([]byte, error)

// Packets answers datagrams until the socket is closed, and waits for the answers that are under way.
func Packets(ctx context.Context, pc net.PacketConn, query Query, log *slog.Logger) {
	var asked sync.WaitGroup
	defer asked.Wait()
	slots := make(chan struct{}, maxQueries)
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		msg := append([]byte(nil), buf[:n]...)
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			answer, err := query(ctx, msg)
			if err != nil {
				log.Debug("dns query failed", "err", err)
				return
			}
			_, _ = pc.WriteTo(truncate(msg, answer), from)
		})
	}
}

// Listener answers on the connections of a listener until it is closed; it closes them, too, and waits for that.
func Listener(ctx context.Context, lis net.Listener, query Query, log *slog.Logger) {
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	slots := make(chan struct{}, maxConns)
	accept.Loop(lis, func(err error) { log.Warn("accept a resolver's client", "error", err) }, func(c net.Conn) {
		slots <- struct{}{}
		serving.Go(func() {
			defer func() { <-slots }()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			Conn(ctx, c, query, log)
		})
	})
}

// Conn answers the queries of one TCP connection (RFC 7766), which may be pipelined, and closes it in the end.
func Conn(ctx context.Context, c net.Conn, query Query, log *slog.Logger) {
	var (
		asked   sync.WaitGroup
		writing sync.Mutex
	)
	defer func() { _ = c.Close() }()
	defer asked.Wait()
	slots := make(chan struct{}, maxQueries)
	for {
		_ = c.SetReadDeadline(time.Now().Add(idle))
		msg, err := read(c)
		if err != nil {
			return
		}
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			answer, err := query(ctx, msg)
			if err != nil || len(answer) > dns.MaxMsgSize {
				log.Debug("dns query failed", "err", err)
				return
			}
			writing.Lock()
			defer writing.Unlock()
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		})
	}
}

// read reads one message with its length before it (RFC 1035 section 4.2.2).
func read(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// truncate makes answer fit into what the asker of query takes by UDP: 512 bytes (RFC 1035 section 2.3.4), or what its
// EDNS option says (RFC 6891 section 6.2.3).
func truncate(query, answer []byte) []byte {
	if len(answer) <= dns.MinMsgSize {
		return answer
	}
	var q, a dns.Msg
	if q.Unpack(query) != nil || a.Unpack(answer) != nil {
		return answer
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	if len(answer) <= size {
		return answer
	}
	a.Truncate(size)
	cut, err := a.Pack()
	if err != nil {
		return answer
	}
	return cut
}
