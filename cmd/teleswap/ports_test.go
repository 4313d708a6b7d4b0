package main

import (
	"fmt"
	"strings"
	"testing"
)

// wellOrNot checks a parser's result, as text, or its error.
func wellOrNot(t *testing.T, got fmt.Stringer, err error, want, fails string) {
	t.Helper()
	switch {
	case fails != "" && (err == nil || !strings.Contains(err.Error(), fails)):
		t.Errorf("got %v, %v; want an error with %q", got, err, fails)
	case fails == "" && (err != nil || got.String() != want):
		t.Errorf("got %v, %v; want %s", got, err, want)
	case err != nil && strings.Contains(err.Error(), "\n"):
		t.Errorf("more than one line: %v", err)
	}
}

func TestParseExpose(t *testing.T) {
	for _, c := range []struct{ text, want, fails string }{
		{"8080", "8080:8080", ""},
		{"8080:80", "8080:80", ""},
		{"8080:80/tcp", "8080:80", ""},
		{"5353:53/udp", "5353:53/udp", ""},
		{"53/udp", "53:53/udp", ""},
		{"1:65535", "1:65535", ""},
		{"", "", "is no port number"},
		{"http", "", `"http" is no port number; it is written LOCAL[:REMOTE]`},
		{"8080:", "", `"" is no port number`},
		{":80", "", `"" is no port number`},
		{"8080:80:1", "", `"80:1" is no port number`},
		{"-1", "", `"-1" is no port number`},
		{"0", "", "there is no port 0"},
		{"8080:0", "", "there is no port 0"},
		{"65536", "", "there is no port 65536, they are 1 to 65535"},
		{"99999999999999999999", "", "there is no port 99999999999999999999"},
		{"8080/sctp", "", `protocol "sctp" is not carried`},
		{"8080/", "", `protocol "" is not carried`},
		{"8080/udp/udp", "", `protocol "udp/udp" is not carried`},
		{" 8080", "", "is no port number"},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := parseExpose(c.text)
			wellOrNot(t, got, err, c.want, c.fails)
		})
	}
}

func TestParsePublish(t *testing.T) {
	for _, c := range []struct{ text, want, fails string }{
		{"2345", "127.0.0.1:2345:2345", ""},
		{"9000:8080", "127.0.0.1:9000:8080", ""},
		{"0:8080", "127.0.0.1:0:8080", ""},
		{"0.0.0.0:8080", "0.0.0.0:8080:8080", ""},
		{"0.0.0.0:9000:8080", "0.0.0.0:9000:8080", ""},
		{"[::1]:9000:8080", "[::1]:9000:8080", ""},
		{"[::1]:9000", "[::1]:9000:9000", ""},
		{"localhost:9000", "127.0.0.1:9000:9000", ""},
		{"localhost:0:9000", "127.0.0.1:0:9000", ""},
		{"[::ffff:127.0.0.2]:53/udp", "127.0.0.2:53:53/udp", ""},
		{"5353:53/udp", "127.0.0.1:5353:53/udp", ""},
		{"", "", "is no port number"},
		{"0", "", "write 0:INSIDE"},
		{"9000:0", "", "there is no port 0"},
		{"127.0.0.1", "", `"127.0.0.1" is no port number`},
		{"127.0.0.1:", "", `"" is no port number`},
		{"example.com:80", "", `"example.com" is no address`},
		{"256.0.0.1:80", "", `"256.0.0.1" is no address`},
		{"1:2:3", "", `"1" is no address`},
		{"[::1]", "", "is no port number"},
		{"[fe80::1%eth0]:80", "", "is no address"},
		{"::1:80", "", "there is no address before the colon"},
		{"8080/http", "", `protocol "http" is not carried`},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := parsePublish(c.text)
			wellOrNot(t, got, err, c.want, c.fails)
		})
	}
}

func TestParseNumber(t *testing.T) {
	for _, c := range []struct{ text, want, fails string }{
		{"9901", "9901", ""},
		{"8125/udp", "8125/udp", ""},
		{"9901:80", "", `"9901:80" is no port number; it is written PORT[/udp]`},
		{"0", "", "there is no port 0"},
		{"70000", "", "there is no port 70000"},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := parseNumber(c.text)
			wellOrNot(t, got, err, c.want, c.fails)
		})
	}
}

func TestPortsGivenTwice(t *testing.T) {
	for _, c := range []struct {
		name  string
		parse func() error
		fails string // empty: it does not
	}{
		{
			"one remote", func() error { _, err := parseExposes([]string{"8080:80", "9090:80"}); return err },
			"the target's port 80 is given twice, by --expose 8080:80 and --expose 9090:80",
		},
		{"one local for two", func() error { _, err := parseExposes([]string{"8080:80", "8080:81"}); return err }, ""},
		{"TCP and UDP", func() error { _, err := parseExposes([]string{"53", "53/udp"}); return err }, ""},
		{
			"one port of the laptop", func() error { _, err := parsePublishes([]string{"8080", "127.0.0.1:8080:90"}); return err },
			"this machine's 127.0.0.1:8080 is given twice",
		},
		{"two addresses", func() error { _, err := parsePublishes([]string{"8080", "[::1]:8080"}); return err }, ""},
		{"any port, twice", func() error { _, err := parsePublishes([]string{"0:80", "0:80"}); return err }, ""},
		{
			"a number", func() error { _, err := parseNumbers("--to-pod", []string{"1", "1"}); return err },
			"port 1 is given twice, by --to-pod 1 and --to-pod 1",
		},
		{"a list", func() error {
			all, err := parseExposes([]string{"8080:80,81", "82"})
			if len(all) != 3 {
				t.Errorf("got %v", all)
			}
			return err
		}, ""},
		{
			"in a list", func() error { _, err := parseNumbers("--from-pod", []string{"1,2,1"}); return err },
			"port 1 is given twice, by --from-pod 1 and --from-pod 1",
		},
		{"nothing", func() error { _, err := parseExposes([]string{""}); return err }, `--expose "": "" is no port number`},
		{"nonsense", func() error { _, err := parseNumbers("--to-pod", []string{"x"}); return err }, `--to-pod x: "x" is no port number`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.parse()
			switch {
			case c.fails == "" && err != nil:
				t.Errorf("got %v", err)
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"8080", "8080:80/udp", "127.0.0.1:1:2", "[::1]:1", "0:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := parseExpose(text); err == nil {
			if again, err := parseExpose(e.String()); err != nil || again != e {
				t.Errorf("%q is %v, which is read as %v, %v", text, e, again, err)
			}
		}
		if p, err := parsePublish(text); err == nil {
			if again, err := parsePublish(p.String()); err != nil || again != p {
				t.Errorf("%q is %v, which is read as %v, %v", text, p, again, err)
			}
		}
		if n, err := parseNumber(text); err == nil {
			if again, err := parseNumber(n.String()); err != nil || again != n {
				t.Errorf("%q is %v, which is read as %v, %v", text, n, again, err)
			}
		}
	})
}
