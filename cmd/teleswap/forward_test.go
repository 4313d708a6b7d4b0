package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseForward(t *testing.T) {
	for text, want := range map[string]forward{
		"service-b:5100":                   {name: "service-b", port: "5100", same: true},
		"service-b:http":                   {name: "service-b", port: "http", same: true},
		"service-b:5100:8080":              {name: "service-b", port: "5100", local: 8080},
		"service-b:5100:0":                 {name: "service-b", port: "5100"},
		"kube-dns.kube-system:53:5353/udp": {name: "kube-dns", namespace: "kube-system", port: "53", local: 5353, udp: true},
		"db.data.svc.cluster.local:5432":   {name: "db", namespace: "data", port: "5432", same: true},
		"db.data.svc:5432/tcp":             {name: "db", namespace: "data", port: "5432", same: true},
		"svc/db.data:5432":                 {kind: "svc", name: "db", namespace: "data", port: "5432", same: true},
		"pod/web.0:80":                     {kind: "pod", name: "web.0", port: "80", same: true},
		"deployment/web:http:8080":         {kind: "deployment", name: "web", port: "http", local: 8080},
		"deployments.apps/web:53:0/udp":    {kind: "deployments.apps", name: "web", port: "53", udp: true},
	} {
		if got, err := parseForward(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"": "it is written", "service-b": "it is written", "service-b:": "it is written", ":80": "it is written", "a:1:2:3": "it is written",
		"pod/:80": "it is written", "/web:80": "it is written", "a/b/c:80": "it is written", "a:80/sctp": `protocol "sctp" is not carried`,
		"a:0": "there is no port 0", "a:99999": "there is no port 99999", "a:80:99999": "there is no port 99999", "a:80:x": `"x" is no port number`,
		"a.b.c:80": "is no name of a Service", "a.:80x/udp/udp": "", "a..b:80": "is no name of a Service",
	} {
		if got, err := parseForward(text); err == nil && says != "" || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v; want %q", text, got, err, says)
		}
	}
	for _, c := range []struct{ texts, says string }{
		{"a:80 b:80", "port 80 of this machine is given twice"},
		{"a:80:81 b:90:81", "port 81 of this machine is given twice"},
		{"a:80 b:80/udp", ""},
		{"a:80:0 b:80:0", ""},
	} {
		_, err := parseForwards(strings.Fields(c.texts))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.texts, err)
		}
	}
}

func FuzzParseForward(f *testing.F) {
	for _, s := range []string{"service-b:5100", "pod/x:http:0/udp", "a.b.svc:1", "a:/b", "a/b:c/tcp", "::/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseForward(text)
		if err == nil && (got.name == "" || got.port == "" || strings.ContainsAny(got.name+got.port, ":/") || got.same && got.local != 0) {
			t.Errorf("%q: %+v", text, got)
		}
	})
}

func TestParseProxy(t *testing.T) {
	for text, want := range map[string]string{
		"1080": "127.0.0.1:1080", ":1080": "127.0.0.1:1080", "0": "127.0.0.1:0", "127.0.0.1:0": "127.0.0.1:0", "localhost:80": "127.0.0.1:80",
		"[::1]:1080": "[::1]:1080", "0.0.0.0:1080": "0.0.0.0:1080", "[::ffff:127.0.0.1]:80": "127.0.0.1:80",
	} {
		if got, err := parseProxy(text); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "99999", "127.0.0.1:", "127.0.0.1:x", "example.com:80", "::1:80", "[fe80::1%eth0]:80", "1.2.3:80"} {
		if got, err := parseProxy(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestProxyAuth(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, quoted := file("auth", "me:secret\n", 0o600), file("it's", "me:secret", 0o600)
	for _, c := range []struct {
		name, file, env string
		want            proxyAuth
		says            string
	}{
		{"nothing", "", "", proxyAuth{}, ""},
		{"a file", private, "", proxyAuth{"me", "secret", "$(cat " + private + ")"}, ""},
		{"a file whose name a shell reads", quoted, "", proxyAuth{"me", "secret", "$(cat '" + dir + `/it'\''s'` + ")"}, ""},
		{"the environment", "", "me:secret", proxyAuth{"me", "secret", "$TELESWAP_PROXY_AUTH"}, ""},
		{"the file holds", private, "you:other", proxyAuth{"me", "secret", "$(cat " + private + ")"}, ""},
		{"what is in no URL", "", "me:se@cret", proxyAuth{"me", "se@cret", ""}, ""},
		{"open to others", file("open", "me:secret", 0o644), "", proxyAuth{}, "others may read it (mode 0644): chmod 600"},
		{"no file", filepath.Join(dir, "none"), "", proxyAuth{}, "no such file"},
		{"an empty file", file("empty", "", 0o600), "", proxyAuth{}, "one line USER:PASSWORD"},
		{"no password", "", "planted-me", proxyAuth{}, "one line USER:PASSWORD"},
		{"several lines", file("lines", "me:secret\nplanted", 0o600), "", proxyAuth{}, "one line USER:PASSWORD"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := proxyFlags{authFile: c.file}
			got, err := p.auth(func(string) string { return c.env })
			if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %+v, %v", got, err)
			}
			if err != nil && strings.Contains(err.Error(), "planted") {
				t.Errorf("the message has the secret: %v", err)
			}
		})
	}
}
