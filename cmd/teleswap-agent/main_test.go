package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name   string
		args   string
		tunnel uint16
		listen []uint16
		udp    []uint16
		loop   []uint16 // TCP's, then UDP's
		grace  time.Duration
		err    string
	}{
		{name: "defaults", tunnel: 15100, grace: 25 * time.Second},
		{
			name: "all", args: "--tunnel-port 15101 --listen 8080 --listen 9090 --listen-udp 53 --listen-udp 514 --keys /k --grace 5s",
			tunnel: 15101, listen: []uint16{8080, 9090}, udp: []uint16{53, 514}, grace: 5 * time.Second,
		},
		{
			name: "loopback", args: "--listen-loopback 9901 --listen-loopback-udp 8125",
			tunnel: 15100, loop: []uint16{9901, 8125}, grace: 25 * time.Second,
		},
		{name: "port 0", args: "--listen 0", err: "not a port"},
		{name: "UDP port 0", args: "--listen-udp 0", err: "not a port"},
		{name: "port too high", args: "--tunnel-port 65536", err: "not a port"},
		{name: "argument", args: "serve", err: `unexpected argument "serve"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := parse(strings.Fields(tt.args), &bytes.Buffer{}, &bytes.Buffer{})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Concat(cfg.Loopback, cfg.LoopbackUDP); !slices.Equal(got, tt.loop) {
				t.Errorf("got %v at the loopback address, want %v", got, tt.loop)
			}
			if cfg.TunnelPort != tt.tunnel || !slices.Equal(cfg.Listen, tt.listen) || !slices.Equal(cfg.ListenUDP, tt.udp) || cfg.Grace != tt.grace {
				t.Errorf("got %d, %v, %s", cfg.TunnelPort, cfg.Listen, cfg.Grace)
			}
		})
	}
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	tests := []struct {
		args   string
		status int
		says   string
	}{
		{"--help", 0, "-tunnel-port"},
		{"--nonsense", 2, "nonsense"},
		{"--keys " + t.TempDir(), 1, "load the session's keys"},
	}
	for _, tt := range tests {
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), strings.Fields(tt.args), &stdout, &stderr); got != tt.status || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("%s: status %d, %q", tt.args, got, stderr.String())
		}
	}
}
