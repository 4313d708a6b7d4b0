package main

import (
	"net"
	"strings"
	"testing"
)

// TestServeAndCall has the two halves speak with each other.
func TestServeAndCall(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := conn.LocalAddr().String()
	_ = conn.Close()
	ended := make(chan error, 1)
	go func() { ended <- serve(t.Context(), address, "me") }() // ends with the test
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/self", "HTTP/3.0 200 me HTTP/3.0 127.0.0.1:"},
		{"GET", "/bytes?n=1000003", "HTTP/3.0 200 1000003 "},
		{"POST", "/sum", "HTTP/3.0 200 1000003 "},
		{"GET", "/call?url=https://" + address + "/self", "HTTP/3.0 200 HTTP/3.0 200 me "},
		{"GET", "/call?url=https://nobody.invalid/self", "HTTP/3.0 200 error: "},
	} {
		var out strings.Builder
		if err := call(t.Context(), c.method, "https://"+address+c.path, body(c.method), &out); err != nil || !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%s %s: %q, %v, want %q…", c.method, c.path, &out, err, c.want)
		}
	}
	for _, name := range []string{"me", "another"} {
		var out strings.Builder
		if err := who(t.Context(), "https://"+address+"/self", 3, name, &out); err != nil || strings.Count(out.String(), " me ") != 1 {
			t.Errorf("who answers, if not %s: %q, %v, want one answer of me", name, &out, err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the server ended: %v", err)
	default:
	}
}

func body(method string) *strings.Reader {
	if method == "POST" {
		return strings.NewReader(strings.Repeat("x", 1000003))
	}
	return strings.NewReader("")
}
