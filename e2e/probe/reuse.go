package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// serveReuse calls an address several times from one port of its own. The server closes first each
// time, so that it is the server's end that remembers the connection (RFC 9293 section 3.6.1).
func serveReuse(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	port, err := strconv.Atoi(r.FormValue("from"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	times, err := strconv.Atoi(r.FormValue("times"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience(r))
	defer cancel()
	for i := range times {
		if err = callFrom(ctx, port, r.FormValue("addr")); err != nil {
			err = fmt.Errorf("call %d: %w", i+1, err)
			break
		}
	}
	reply(w, outcome(start, err))
}

func callFrom(ctx context.Context, port int, addr string) error {
	conn, err := dialFrom(ctx, port, addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "GET /self HTTP/1.1\r\nHost: reuse\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answer %.100q", answer)
	}
	return nil
}

// dialFrom tries again while this machine's own kernel is not done with the last connection.
func dialFrom(ctx context.Context, port int, addr string) (net.Conn, error) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		})
	}}
	for {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL) || ctx.Err() != nil {
			return conn, err
		}
		time.Sleep(time.Millisecond)
	}
}
