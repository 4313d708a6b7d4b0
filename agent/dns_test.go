package agent

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teleswap/teleswap/dnsresolver/stub"
)

// query is a message with one question, as a stub resolver sends it.
func query(id uint16, name string) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1)
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	b = append(b, 0, 0, 1, 0, 1)
	return append(b, 0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0) // EDNS
}

// answerTo turns a query into a response with a code and some bytes to know it by.
func answerTo(q []byte, rcode byte, mark string) []byte {
	a := bytes.Clone(q)
	a[2] |= 0x80
	a[3] = a[3]&0xf0 | rcode
	return append(a, mark...)
}

// nameserver answers on UDP and TCP on one port. A nil answer is no answer.
type nameserver struct {
	addr netip.AddrPort

	mu    sync.Mutex
	heard [][]byte
}

func newNameserver(t *testing.T, answer func(network string, q []byte) [][]byte) *nameserver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n := &nameserver{addr: netip.MustParseAddrPort(l.Addr().String())}
	hear := func(network string, q []byte) [][]byte {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.heard = append(n.heard, bytes.Clone(q))
		return answer(network, q)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			size, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			for _, a := range hear("udp", b[:size]) {
				_, _ = u.WriteTo(a, from)
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				var size [2]byte
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				q := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, q); err != nil {
					return
				}
				for _, a := range hear("tcp", q) {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		_ = u.Close()
		wg.Wait()
	})
	return n
}

func (n *nameserver) queries() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.heard)
}

func resolverFor(servers ...*nameserver) *resolver {
	r := newResolver(nil)
	r.timeout = 300 * time.Millisecond
	r.servers = nil
	for _, s := range servers {
		r.servers = append(r.servers, s.addr)
	}
	return r
}

func one(a []byte) [][]byte { return [][]byte{a} }

func TestExchange(t *testing.T) {
	q := query(7, "service-b.default.svc.cluster.local")
	good := func(mark string) func(string, []byte) [][]byte {
		return func(_ string, q []byte) [][]byte { return one(answerTo(q, 0, mark)) }
	}
	silent := func(string, []byte) [][]byte { return nil }
	code := func(rcode byte) func(string, []byte) [][]byte {
		return func(_ string, q []byte) [][]byte { return one(answerTo(q, rcode, "")) }
	}
	truncated := func(network string, q []byte) [][]byte {
		a := answerTo(q, 0, network)
		if network == "udp" {
			a[2] |= 0x02
		}
		return one(a)
	}
	forged := func(_ string, q []byte) [][]byte {
		wrongID, wrongName, noResponse := answerTo(q, 0, "id"), answerTo(q, 0, "name"), bytes.Clone(q)
		wrongID[0]++
		wrongName[stub.HeaderSize+1] = 'x'
		return [][]byte{wrongID, wrongName, noResponse, {1, 2, 3}, answerTo(q, 0, "true")}
	}
	tests := []struct {
		name    string
		first   func(string, []byte) [][]byte
		second  func(string, []byte) [][]byte
		want    string // end of the answer; "error" for none
		rcode   byte
		queries [2]int
	}{
		{"the first answers", good("one"), good("two"), "one", 0, [2]int{1, 0}},
		{"name error is an answer", code(3), good("two"), "", 3, [2]int{1, 0}},
		{"server failure asks the next", code(2), good("two"), "two", 0, [2]int{1, 1}},
		{"refused by all is told", code(5), code(5), "", 5, [2]int{2, 2}},
		{"silence asks the next", silent, good("two"), "two", 0, [2]int{1, 1}},
		{"silence of all is an error", silent, silent, "error", 0, [2]int{2, 2}},
		{"truncation asks by TCP", truncated, silent, "tcp", 0, [2]int{2, 0}},
		{"what is no answer is passed over", forged, silent, "true", 0, [2]int{1, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, second := newNameserver(t, tt.first), newNameserver(t, tt.second)
			answer, err := resolverFor(first, second).exchange(t.Context(), q)
			if tt.want == "error" {
				if err == nil {
					t.Errorf("got %q", answer)
				}
			} else if err != nil || !strings.HasSuffix(string(answer), tt.want) || answer[3]&0x0f != tt.rcode {
				t.Errorf("got %q, %v", answer, err)
			}
			if got := [2]int{first.queries(), second.queries()}; got != tt.queries {
				t.Errorf("queries %v, want %v", got, tt.queries)
			}
			for _, heard := range first.heard {
				if !bytes.Equal(heard, q) {
					t.Errorf("the message was changed: %q", heard)
				}
			}
		})
	}
}

func TestExchangeRejects(t *testing.T) {
	r := newResolver(nil)
	for _, size := range []int{0, stub.HeaderSize - 1, stub.MaxSize + 1} {
		if _, err := r.exchange(t.Context(), make([]byte, size)); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
}

func TestResolvConf(t *testing.T) {
	tests := []struct {
		name     string
		content  string
		servers  string
		timeout  time.Duration
		attempts int
	}{
		{"empty", "", "[127.0.0.1:53]", 5 * time.Second, 2},
		{
			"a pod's", "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
			"[10.96.0.10:53]", 5 * time.Second, 2,
		},
		{
			"all of it", "# comment\nnameserver 10.0.0.1\nnameserver fd00::a\nnameserver bad\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n" +
				"options timeout:1 attempts:3 rotate\n",
			"[10.0.0.1:53 [fd00::a]:53 10.0.0.3:53]", time.Second, 3,
		},
		{"beyond the limits", "nameserver 10.0.0.1\noptions timeout:99 attempts:0\n", "[10.0.0.1:53]", 30 * time.Second, 2},
	}
	for _, tt := range tests {
		r := newResolver([]byte(tt.content))
		var servers []string
		for _, s := range r.servers {
			servers = append(servers, s.String())
		}
		if got := "[" + strings.Join(servers, " ") + "]"; got != tt.servers || r.timeout != tt.timeout || r.attempts != tt.attempts {
			t.Errorf("%s: %s, %s, %d", tt.name, got, r.timeout, r.attempts)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 10.96.0.10\noptions timeout:1 attempts:3\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r := newResolver(content)
		if len(r.servers) == 0 || len(r.servers) > maxNameservers || r.attempts < 1 || r.timeout <= 0 {
			t.Errorf("%q gives %v, %d attempts, %s", content, r.servers, r.attempts, r.timeout)
		}
	})
}
