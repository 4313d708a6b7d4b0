//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// lineHandler writes records for people: the message, then what belongs to it.
type lineHandler struct {
	level slog.Level
	attrs []slog.Attr

	mu *sync.Mutex
	w  io.Writer
}

func newLogger(w io.Writer, verbose bool) *slog.Logger {
	h := &lineHandler{level: slog.LevelInfo, mu: &sync.Mutex{}, w: w}
	if verbose {
		h.level = slog.LevelDebug
	}
	return slog.New(h)
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString("cluster: " + r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&line, "  %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	line.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, line.String())
	return err
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = append(with.attrs[:len(with.attrs):len(with.attrs)], attrs...)
	return &with
}

// WithGroup is not used by the driver; names stay flat.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
