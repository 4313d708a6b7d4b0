package restart

import (
	"fmt"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/proxy/http2"
)

// said is what passed on a connection: "> " begins what the client sent, "< " what it got.
func said(t *testing.T, e *exchange, lines []string, piece int) {
	t.Helper()
	for _, line := range lines {
		way, text := line[:2], line[2:]
		for len(text) > 0 {
			n := min(piece, len(text))
			if way == "> " {
				e.request([]byte(text[:n]))
			} else {
				e.answer([]byte(text[:n]))
			}
			text = text[n:]
		}
	}
}

const (
	http2Settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	http2Head     = "\x00\x00\x00\x01\x04\x00\x00\x00\x01"
)

// TestExchangeStates: what is known after some messages, however they were cut.
func TestExchangeStates(t *testing.T) {
	const get, post, ok = "> GET / HTTP/1.1\r\nHost: a\r\n\r\n", "> POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "< HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	type state struct{ idle, owed, safe, last, opaque bool }
	idle, asked := state{idle: true, safe: true}, state{owed: true}
	opaque := state{opaque: true}
	for name, c := range map[string]struct {
		said []string
		want state
	}{
		"nothing":                 {nil, idle},
		"half a head":             {[]string{"> POST / HT"}, state{owed: true, safe: true}},
		"asked safely":            {[]string{get}, state{owed: true, safe: true}},
		"asked":                   {[]string{post}, asked},
		"asked in part":           {[]string{post[:len(post)-2]}, asked},
		"answered":                {[]string{post, ok}, idle},
		"answered in part":        {[]string{post, ok[:len(ok)-1]}, asked},
		"answered to HEAD":        {[]string{"> HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "< HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"}, idle},
		"answered early":          {[]string{post[:len(post)-2], ok}, state{owed: true, safe: true}},
		"no content":              {[]string{post, "< HTTP/1.1 204 No Content\r\n\r\n"}, idle},
		"told to go on":           {[]string{post, "< HTTP/1.1 100 Continue\r\n\r\n"}, asked},
		"told to go on, and done": {[]string{post, "< HTTP/1.1 100 Continue\r\n\r\n", ok}, idle},
		"chunked":                 {[]string{post, "< HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"}, asked},
		"chunked to its end":      {[]string{post, "< HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"}, idle},
		"a chunked request":       {[]string{"> POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", ok}, idle},
		"two on their way":        {[]string{get, get, ok}, state{owed: true, safe: true}},
		"two and two":             {[]string{get, post, ok, ok}, idle},
		"the server's last":       {[]string{get, "< HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"}, state{idle: true, safe: true, last: true}},
		"the client's last":       {[]string{"> GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ok}, state{idle: true, safe: true, last: true}},
		"HTTP/1.0":                {[]string{"> GET / HTTP/1.0\r\n\r\n", "< HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"}, state{idle: true, safe: true, last: true}},
		"to the end":              {[]string{get, "< HTTP/1.1 200 OK\r\n\r\nhi, and"}, state{owed: true, safe: true, last: true}},
		"a websocket":             {[]string{get, "< HTTP/1.1 101 Switching Protocols\r\n\r\n"}, opaque},
		"a tunnel":                {[]string{"> CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"}, opaque},
		"HTTP/2":                  {[]string{"> " + http2.Preface + http2Head}, state{opaque: true, owed: true}},
		"HTTP/2's server first":   {[]string{"< " + http2Settings, "> " + http2.Preface, "< " + http2Settings, "> " + http2Head}, state{opaque: true, owed: true}},
		"not HTTP/2 after all":    {[]string{"< " + http2Settings, "> PRI? * HTTP/1.1\r\n\r\n" + http2Head}, opaque},
		"TLS":                     {[]string{"> \x16\x03\x01\x02\x00"}, opaque},
		"no HTTP":                 {[]string{"> HELLO there\r\n"}, opaque},
		"a server that greets":    {[]string{"< 220 hello\r\n"}, opaque},
		"an answer to nothing":    {[]string{get, ok, ok}, opaque},
		"an endless head":         {[]string{"> GET / HTTP/1.1\r\nA: " + strings.Repeat("a", maxHead)}, opaque},
		"a long body":             {[]string{fmt.Sprintf("> POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 2*maxHead) + strings.Repeat("a", 2*maxHead), ok}, idle},
	} {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 7, 64 << 10, 4 << 20} {
				if piece < 100 && (len(strings.Join(c.said, "")) > maxHead || strings.Contains(name, "server first")) {
					continue // the one takes its time, of the other a server's first frame must come at once
				}
				var e exchange
				said(t, &e, c.said, piece)
				owed, _ := e.owed()
				got := state{e.idle(), owed, e.safe(), e.last && !e.opaque, e.opaque}
				if got != c.want {
					t.Errorf("in pieces of %d: got %+v, want %+v", piece, got, c.want)
				}
				e.end()
				e.end()
				e.request([]byte("more"))
				e.answer([]byte("more"))
			}
		})
	}
}
