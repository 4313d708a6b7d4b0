package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/podview"
)

func TestPlainEnvironment(t *testing.T) {
	p := &api.Prepare{NoSandbox: true, Root: "/run/files/abc", Proxy: "teleswap:word@127.0.0.1:1080"}
	cases := []struct {
		name            string
		local, pod, set []string
		want            []string // of the environment
		not             []string // beginnings of variables
		line            string
	}{
		{"all", nil, nil, nil, []string{
			"TELESWAP_ROOT=/run/files/abc", "TELEPRESENCE_ROOT=/run/files/abc", "HTTP_PROXY=http://teleswap:word@127.0.0.1:1080", "https_proxy=http://teleswap:word@127.0.0.1:1080",
			"all_proxy=socks5h://teleswap:word@127.0.0.1:1080", "NO_PROXY=localhost,127.0.0.1,::1",
		}, nil, "the proxy at 127.0.0.1:1080 (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY)"},
		{
			"the user's",
			[]string{"http_proxy=http://office:3128"},
			nil, nil,
			[]string{"http_proxy=http://office:3128", "ALL_PROXY=socks5h://teleswap:word@127.0.0.1:1080"},
			[]string{"HTTP_PROXY="},
			"; HTTP_PROXY is set already",
		},
		{"the pod's", nil, []string{"HTTPS_PROXY=http://egress:1"}, nil, []string{"HTTPS_PROXY=http://egress:1"}, []string{"https_proxy="}, "; HTTPS_PROXY is set"},
		{
			"by --env", nil, nil,
			[]string{"ALL_PROXY=socks5://x:1", "NO_PROXY=x", "TELESWAP_ROOT=/mine"},
			[]string{"ALL_PROXY=socks5://x:1", "NO_PROXY=x", "TELESWAP_ROOT=/mine"},
			[]string{"all_proxy=", "no_proxy="},
			"; ALL_PROXY, NO_PROXY are set",
		},
		{"empty", []string{"HTTP_PROXY="}, nil, nil, []string{"HTTP_PROXY=http://teleswap:word@127.0.0.1:1080"}, nil, "(HTTP_PROXY"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var said string
			e := environment{EnvOptions: podview.EnvOptions{Set: c.set}}
			e = e.withPlain(p, c.local, c.pod, func(format string, args ...any) { said = fmt.Sprintf(format, args...) })
			got, err := e.plan(c.local, c.pod, []string{"x"}, t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range c.want {
				if !slices.Contains(got, kv) {
					t.Errorf("%q is missing in %q", kv, got)
				}
			}
			for _, start := range c.not {
				if slices.ContainsFunc(got, func(kv string) bool { return strings.HasPrefix(kv, start) }) {
					t.Errorf("%s… is in %q", start, got)
				}
			}
			if !strings.Contains(said, c.line) {
				t.Errorf("said %q, want %q in it", said, c.line)
			}
		})
	}
}

func TestPlainFlags(t *testing.T) {
	for _, c := range []struct {
		name  string
		ports portFlags
		want  string
	}{
		{"no port", portFlags{}, ""},
		{"a port of the target", portFlags{expose: []string{"8080"}}, ""},
		{"publish", portFlags{publish: []string{"8080"}}, "--publish: without a sandbox"},
		{"to-pod", portFlags{toPod: []string{"8080"}}, "--to-pod: without a sandbox"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := plainFlags{noSandbox: true}.check(&c.ports)
			switch {
			case c.want == "" && (err != nil || !got):
				t.Errorf("%v, %v", got, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}
