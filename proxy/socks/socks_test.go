package socks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a proxy on loopback, and what it was asked to dial.
type lab struct {
	addr string

	mu    sync.Mutex
	asked []string
}

// newLab starts a proxy that dials the addresses in names by their names, and all else as it is.
func newLab(t *testing.T, s *Server, names map[string]string) *lab {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{addr: lis.Addr().String()}
	if s.Dial == nil {
		s.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			l.mu.Lock()
			l.asked = append(l.asked, address)
			l.mu.Unlock()
			if to, known := names[address]; known {
				address = to
			}
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l
}

func (l *lab) dialled() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.asked, " ")
}

// client is an HTTP client that goes by the proxy.
func (l *lab) client(t *testing.T, scheme string, user *url.Userinfo) *http.Client {
	t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: l.addr, User: user})}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// connect opens a raw connection to the proxy.
func (l *lab) connect(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// get is what a GET brings, status first.
func get(t *testing.T, c *http.Client, address string) string {
	t.Helper()
	resp, err := c.Get(address)
	if err != nil {
		return "error: " + err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

// hello is a web server that says hello, and who it was called as.
func hello(t *testing.T, tls bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(rw, "hello %s %s%s", req.Host, req.Header.Get("Proxy-Authorization"), req.Header.Get("X-Forwarded-For"))
	}))
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func hostOf(t *testing.T, s *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestNamesTravel(t *testing.T) {
	web := hello(t, false)
	for _, scheme := range []string{"http", "socks5h", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			l := newLab(t, &Server{}, map[string]string{"greeter.shop:80": hostOf(t, web)})
			if got := get(t, l.client(t, scheme, nil), "http://greeter.shop/"); got != "200 hello greeter.shop" {
				t.Errorf("got %q", got)
			}
			if got := l.dialled(); got != "greeter.shop:80" {
				t.Errorf("dialled %q: the name was not left to the other end", got)
			}
		})
	}
}

func TestConnectToHTTPS(t *testing.T) {
	web := hello(t, true)
	l := newLab(t, &Server{}, nil)
	c := l.client(t, "http", nil)
	c.Transport.(*http.Transport).TLSClientConfig = web.Client().Transport.(*http.Transport).TLSClientConfig
	if got := get(t, c, web.URL); got != "200 hello "+hostOf(t, web) {
		t.Errorf("got %q", got)
	}
}

func TestPages(t *testing.T) {
	pages := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		fmt.Fprint(rw, "page ", req.URL.Path, " of ", req.Host)
	})
	l := newLab(t, &Server{User: "u", Password: "p", Pages: pages}, nil)
	direct := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(direct.CloseIdleConnections)
	if got := get(t, direct, "http://"+l.addr+"/proxy.pac"); got != "200 page /proxy.pac of "+l.addr {
		t.Errorf("the page: %q", got)
	}
	if got := get(t, l.client(t, "http", nil), "http://db.shop/proxy.pac"); !strings.HasPrefix(got, "407 ") {
		t.Errorf("somebody else's page without a password: %q", got)
	}
	none := newLab(t, &Server{}, nil)
	if got := get(t, direct, "http://"+none.addr+"/proxy.pac"); !strings.HasPrefix(got, "400 ") {
		t.Errorf("without pages: %q", got)
	}
}

func TestFailuresAreTold(t *testing.T) {
	cases := []struct {
		name  string
		err   error
		reply reply
		http  int
	}{
		{"refused", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, replyRefused, 502},
		{"no route", syscall.ENETUNREACH, replyNetwork, 502},
		{"no host", syscall.EHOSTUNREACH, replyHost, 502},
		{"no such name", &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}, replyHost, 502},
		{"timed out", syscall.ETIMEDOUT, replyHost, 504},
		{"forbidden", syscall.EACCES, replyForbidden, 502},
		{"something else", errors.New("the tunnel is broken"), replyFailed, 502},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, &Server{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, c.err }}, nil)
			if got := ask(t, l.connect(t), "db.shop", 5432); got != c.reply {
				t.Errorf("SOCKS reply %d, want %d", got, c.reply)
			}
			conn := l.connect(t)
			fmt.Fprintf(conn, "CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
			if resp.StatusCode != c.http || !strings.Contains(string(body), c.err.Error()) {
				t.Errorf("CONNECT: %d %q", resp.StatusCode, body)
			}
			if got := get(t, l.client(t, "http", nil), "http://db.shop/"); !strings.HasPrefix(got, fmt.Sprint(c.http)) || !strings.Contains(got, c.err.Error()) {
				t.Errorf("GET: %q", got)
			}
		})
	}
}

// ask greets and asks for a name by SOCKS, and returns the reply.
func ask(t *testing.T, c net.Conn, host string, port uint16) reply {
	t.Helper()
	msg := append([]byte{version5, 1, methodNone, version5, commandConnect, 0, kindName, byte(len(host))}, host...)
	msg = append(msg, byte(port>>8), byte(port))
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	if answer[0] != version5 || answer[1] != methodNone || answer[2] != version5 {
		t.Fatalf("answer %v", answer)
	}
	return reply(answer[3])
}

func TestHalfCloseAndReset(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	heard := make(chan string, 1)
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := lis.Accept()
		if err != nil {
			return
		}
		b, _ := io.ReadAll(c) // until the client has ended its way
		heard <- string(b)
		_, _ = c.Write([]byte("goodbye"))
		_ = c.(*net.TCPConn).SetLinger(0) // what follows is a reset
		buf := make([]byte, 1)
		_, _ = c.Read(buf)
		_ = c.Close()
	}()
	defer func() { _ = lis.Close(); <-served }()
	l := newLab(t, &Server{}, map[string]string{"db.shop:1": lis.Addr().String()})
	for _, name := range []string{"socks"} {
		c := l.connect(t)
		if got := ask(t, c, "db.shop", 1); got != replyDone {
			t.Fatalf("%s: reply %d", name, got)
		}
		fmt.Fprint(c, "hello")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != "hello" {
			t.Errorf("%s: the other end heard %q", name, got)
		}
		buf := make([]byte, len("goodbye"))
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "goodbye" {
			t.Errorf("%s: after the half-close: %q, %v", name, buf, err)
		}
	}
}

func TestBytesAfterConnectAreKept(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := lis.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	defer func() { _ = lis.Close(); <-served }()
	l := newLab(t, &Server{}, nil)
	c := l.connect(t)
	// What follows the request comes in the same packet.
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\nearly", lis.Addr())
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil || string(all) != "HTTP/1.1 200 Connection established\r\n\r\nearly" {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestCredentials(t *testing.T) {
	web := hello(t, false)
	s := &Server{User: "me", Password: "word"}
	l := newLab(t, s, nil)
	for _, scheme := range []string{"http", "socks5h"} {
		for user, want := range map[*url.Userinfo]string{
			nil:                             "",
			url.UserPassword("me", "wrong"): "",
			url.UserPassword("me", "word"):  "200 hello " + hostOf(t, web),
		} {
			got := get(t, l.client(t, scheme, user), web.URL)
			if want != "" && got != want || want == "" && strings.HasPrefix(got, "200") {
				t.Errorf("%s with %v: %q, want %q", scheme, user, got, want)
			}
		}
	}
}

func TestWhatIsNotDone(t *testing.T) {
	l := newLab(t, &Server{}, nil)
	cases := []struct {
		name string
		send []byte
		want []byte
	}{
		{"bind", []byte{5, 1, 0, 5, 2, 0, 1, 1, 2, 3, 4, 0, 80}, append([]byte{5, 0}, replyCommand.bytes()...)},
		{"udp associate", []byte{5, 1, 0, 5, 3, 0, 1, 1, 2, 3, 4, 0, 80}, append([]byte{5, 0}, replyCommand.bytes()...)},
		{"unknown address", []byte{5, 1, 0, 5, 1, 0, 9}, append([]byte{5, 0}, replyAddressKind.bytes()...)},
		{"no method of ours", []byte{5, 1, 7}, []byte{5, methodNobody}},
		{"another version inside", []byte{5, 1, 0, 4, 1, 0, 1}, append([]byte{5, 0}, replyFailed.bytes()...)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn := l.connect(t)
			if _, err := conn.Write(c.send); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
	t.Run("no proxy request", func(t *testing.T) {
		if got := get(t, http.DefaultClient, "http://"+l.addr+"/"); !strings.HasPrefix(got, "400 teleswap: this is a proxy") {
			t.Errorf("got %q", got)
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

func TestServeEndsAll(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	l := newLab(t, &Server{}, map[string]string{"db.shop:1": lis.Addr().String()})
	c := l.connect(t)
	if got := ask(t, c, "db.shop", 1); got != replyDone {
		t.Fatalf("reply %d", got)
	}
	_ = l.connect(t) // says nothing
	web := l.connect(t)
	fmt.Fprintf(web, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", lis.Addr())
	if _, err := http.ReadResponse(bufio.NewReader(web), nil); err != nil {
		t.Fatal(err)
	}
	// The lab's end must end Serve, which waits for all three.
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte{5, 1, 0, 1, 10, 0, 0, 1, 0, 80})
	f.Add([]byte{5, 1, 0, 3, 4, 'd', 'b', '.', 'a', 0, 80})
	f.Add([]byte{5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80})
	f.Fuzz(func(t *testing.T, in []byte) {
		address, refused, err := readRequest(bytes.NewReader(in))
		if err != nil {
			if address != "" {
				t.Errorf("an address %q with an error", address)
			}
			return
		}
		if refused != replyDone {
			t.Errorf("refused with %d, and no error", refused)
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			t.Errorf("%q is no address: %v", address, err)
		}
	})
}
