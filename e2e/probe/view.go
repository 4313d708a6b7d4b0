package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// probe serves what it sees. Safe for concurrent use.
type probe struct {
	name    string
	plain   bool
	drain   bool
	stdout  io.Writer
	watches watches

	lastCall atomic.Int64 // when, in nanoseconds of Unix time; /self, which readiness probes call, does not count

	mu        sync.Mutex
	load      *load
	servers   []*http.Server
	listeners []net.Listener
	ending    bool // from now on servers and listeners stay as they are
}

func newProbe(o options, stdout io.Writer) *probe {
	return &probe{name: o.name, plain: o.plain, drain: o.drain, stdout: stdout}
}

// listen serves on one more address and returns it with its port.
func (p *probe) listen(addr string) (string, error) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: p.handler(lis.Addr().String()), ReadHeaderTimeout: time.Minute}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return "", errors.Join(errors.New("the process ends"), lis.Close())
	}
	p.servers, p.listeners = append(p.servers, server), append(p.listeners, lis)
	go func() {
		if err := server.Serve(lis); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			log.Fatal(err)
		}
	}()
	return lis.Addr().String(), nil
}

// quietTime is how long nobody must have called before a probe that drains goes.
const quietTime = time.Second

// end is for who is told to end. It lets begun requests finish and exits. That is Shutdown, and
// Shutdown drops what has arrived and is not yet read, so a server behind a Service must
// not begin with it: one that drains serves on, on connections that it does not keep, until
// its callers have gone elsewhere.
func (p *probe) end(code int) {
	if !p.first() {
		return
	}
	if p.drain {
		p.waitQuiet()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var ending sync.WaitGroup
	for _, s := range p.servers {
		ending.Go(func() { _ = s.Shutdown(ctx) })
	}
	ending.Wait()
	os.Exit(code)
}

// leave is for who goes by himself: nobody sends his callers elsewhere, so he closes the door,
// serves those who are in, and exits.
func (p *probe) leave(code int) {
	if !p.first() {
		return
	}
	for _, lis := range p.listeners {
		_ = lis.Close()
	}
	p.waitQuiet()
	os.Exit(code)
}

// first is true for the one that ends the process.
func (p *probe) first() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !p.ending
	p.ending = true
	return first
}

func (p *probe) waitQuiet() {
	for _, s := range p.servers {
		s.SetKeepAlivesEnabled(false)
	}
	p.lastCall.Store(time.Now().UnixNano())
	for time.Since(time.Unix(0, p.lastCall.Load())) < quietTime {
		time.Sleep(10 * time.Millisecond)
	}
}

// handler serves on one listener; listening is that listener's address, so that
// a test with two ports can tell them apart.
func (p *probe) handler(listening string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { reply(w, os.Environ()) })
	mux.HandleFunc("/file", serveFile)
	mux.HandleFunc("/self", func(w http.ResponseWriter, r *http.Request) { reply(w, p.self(r, listening)) })
	mux.HandleFunc("/dial", serveDial)
	mux.HandleFunc("/lookup", serveLookup)
	mux.HandleFunc("/get", serveGet)
	mux.HandleFunc("/tls", serveTLS)
	mux.HandleFunc("/sum", serveSum)
	mux.HandleFunc("/bytes", serveBytes)
	mux.HandleFunc("/post", servePost)
	mux.HandleFunc("/print", func(_ http.ResponseWriter, r *http.Request) { fmt.Fprintln(p.stdout, r.FormValue("text")) })
	mux.HandleFunc("/exit", p.serveExit)
	mux.HandleFunc("/listen", p.serveListen)
	mux.HandleFunc("/reuse", serveReuse)
	mux.HandleFunc("/walk", serveWalk)
	mux.HandleFunc("/fileop", serveFileOp)
	mux.HandleFunc("/watch", p.serveWatch)
	mux.HandleFunc("/torn", serveTorn)
	mux.HandleFunc("/udp", serveUDP)
	mux.HandleFunc("/raw", serveRawCall)
	mux.HandleFunc("/ping", servePing)
	mux.HandleFunc("/incluster", serveInCluster)
	mux.HandleFunc("/grpc", serveGRPC)
	mux.HandleFunc("/ws", serveWebSocket)
	mux.HandleFunc("/wscall", serveWebSocketCall)
	mux.HandleFunc("/dns", serveDNS)
	mux.HandleFunc("/load/start", p.startLoad)
	mux.HandleFunc("/load/report", p.reportLoad)
	mux.HandleFunc("/load/stop", p.stopLoad)
	mux.HandleFunc("/", p.serveGreeting)
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// serveGreeting answers any other path as service-a does, so that the load generator can
// tell the local process from the original: only the newer version has dateTime.
func (p *probe) serveGreeting(w http.ResponseWriter, r *http.Request) {
	p.lastCall.Store(time.Now().UnixNano())
	_, _ = io.Copy(io.Discard, r.Body)
	greeting := map[string]any{"env": os.Getenv("ENV"), "message": "Yo Hi"}
	if !p.plain {
		greeting["dateTime"] = time.Now().Unix()
	}
	reply(w, greeting)
}

// Self is what a process knows of itself and of who asked.
type Self struct {
	Name      string            `json:"name"`
	PID       int               `json:"pid"`
	Hostname  string            `json:"hostname"`
	Dir       string            `json:"dir"`
	Args      []string          `json:"args"`
	Peer      string            `json:"peer"`
	Local     string            `json:"local"`
	Listening string            `json:"listening"`
	Status    map[string]string `json:"status"`
	Addresses []string          `json:"addresses"`
}

func (p *probe) self(r *http.Request, listening string) Self {
	s := Self{Name: p.name, PID: os.Getpid(), Args: os.Args, Peer: r.RemoteAddr, Listening: listening, Status: map[string]string{}}
	s.Hostname, _ = os.Hostname()
	s.Dir, _ = os.Getwd()
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		s.Local = local.String()
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && (strings.HasPrefix(key, "Cap") || key == "Uid" || key == "Gid" || key == "NoNewPrivs") {
			s.Status[key] = strings.TrimSpace(value)
		}
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, a.String())
	}
	return s
}

func serveFile(w http.ResponseWriter, r *http.Request) {
	content, err := os.ReadFile(r.FormValue("path"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(content)
}

// Outcome is how a dial, a lookup or a request ended.
type Outcome struct {
	OK           bool     `json:"ok"`
	Errno        string   `json:"errno,omitempty"`
	NotFound     bool     `json:"notFound,omitempty"`
	Error        string   `json:"error,omitempty"`
	Milliseconds float64  `json:"milliseconds"`
	Addresses    []string `json:"addresses,omitempty"`
	Status       int      `json:"status,omitempty"`
	Body         string   `json:"body,omitempty"`
}

func outcome(start time.Time, err error) Outcome {
	o := Outcome{OK: err == nil, Milliseconds: float64(time.Since(start).Microseconds()) / 1000}
	if err == nil {
		return o
	}
	o.Error = err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		o.Errno = errnoName(errno)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		o.NotFound = dns.IsNotFound
	}
	return o
}

func errnoName(errno syscall.Errno) string {
	names := map[syscall.Errno]string{
		syscall.ECONNREFUSED: "ECONNREFUSED", syscall.ETIMEDOUT: "ETIMEDOUT", syscall.EHOSTUNREACH: "EHOSTUNREACH",
		syscall.EROFS: "EROFS", syscall.ENOENT: "ENOENT", syscall.EPERM: "EPERM", syscall.EADDRINUSE: "EADDRINUSE", syscall.EAGAIN: "EAGAIN",
		syscall.EMSGSIZE: "EMSGSIZE", syscall.ENETUNREACH: "ENETUNREACH", syscall.ECONNRESET: "ECONNRESET", syscall.EACCES: "EACCES", syscall.EPIPE: "EPIPE",
	}
	if name, ok := names[errno]; ok {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}

// patience bounds whatever a test asks for; a test that needs less says so. The API server's proxy
// has a parameter timeout of its own: who asks by way of it says limit.
func patience(r *http.Request) time.Duration {
	for _, name := range []string{"limit", "timeout"} {
		if d, err := time.ParseDuration(r.FormValue(name)); err == nil {
			return d
		}
	}
	return 30 * time.Second
}

func serveDial(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	network := r.FormValue("network")
	if network == "" {
		network = "tcp"
	}
	conn, err := net.DialTimeout(network, r.FormValue("addr"), patience(r))
	o := outcome(start, err)
	if err == nil {
		o.Addresses = []string{conn.LocalAddr().String(), conn.RemoteAddr().String()}
		_ = conn.Close()
	}
	reply(w, o)
}

func serveLookup(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), patience(r))
	defer cancel()
	resolver := &net.Resolver{PreferGo: true}
	addrs, err := resolver.LookupHost(ctx, r.FormValue("name"))
	o := outcome(start, err)
	o.Addresses = addrs
	reply(w, o)
}

func serveGet(w http.ResponseWriter, r *http.Request) {
	fetch(w, r, http.MethodGet, func() io.Reader { return nil })
}

// servePost sends n bytes, or the given body, to the URL and hands back the answer.
func servePost(w http.ResponseWriter, r *http.Request) {
	fetch(w, r, http.MethodPost, func() io.Reader {
		if n, err := strconv.ParseInt(r.FormValue("n"), 10, 64); err == nil {
			return pattern(n)
		}
		return strings.NewReader(r.FormValue("body"))
	})
}

// fetch sends the request as often as times says (once, if it does not), each on a connection of its own, and hands back the last answer, or
// the first that is not a good one: that has no body, or lacks what the parameter want says.
func fetch(w http.ResponseWriter, r *http.Request, method string, body func() io.Reader) {
	times, _ := strconv.Atoi(r.FormValue("times")) // none given: once
	var o Outcome
	for range max(1, times) {
		var err error
		if o, err = fetchOnce(r, method, body()); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !o.OK || !strings.Contains(o.Body, r.FormValue("want")) {
			break
		}
	}
	reply(w, o)
}

// fetchOnce's error is that of a request that cannot be made; how one ended that could is the outcome.
func fetchOnce(r *http.Request, method string, body io.Reader) (Outcome, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), patience(r))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.FormValue("url"), body)
	if err != nil {
		return Outcome{}, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return outcome(start, err), nil
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	o := outcome(start, err)
	o.Status, o.Body = resp.StatusCode, string(content)
	if r.FormValue("sum") != "" {
		o.Body = sumOf(bytes.NewReader(content))
	}
	return o, nil
}

// serveTLS shakes hands with the address and tells whose certificate it showed. Trust
// is not the question here, who answers is.
func serveTLS(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	dialer := &net.Dialer{Timeout: patience(r)}
	conn, err := tls.DialWithDialer(dialer, "tcp", r.FormValue("addr"), &tls.Config{InsecureSkipVerify: true})
	o := outcome(start, err)
	if err == nil {
		o.Addresses = conn.ConnectionState().PeerCertificates[0].DNSNames
		_ = conn.Close()
	}
	reply(w, o)
}

func serveSum(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, sumOf(r.Body))
}

func sumOf(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", n, hex.EncodeToString(h.Sum(nil)))
}

func serveBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.Copy(w, pattern(n))
}

// pattern is n bytes that never repeat at a power of two: a lost or doubled
// buffer changes their sum.
func pattern(n int64) io.Reader {
	block := make([]byte, 251*257)
	for i := range block {
		block[i] = byte(i % 251 * 7)
	}
	return io.LimitReader(&repeat{block: block}, n)
}

type repeat struct {
	block []byte
	at    int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// serveExit ends the process with the status asked for.
func (p *probe) serveExit(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, map[string]int{"code": code})
	go p.leave(code)
}

// serveListen opens one more port, as a server does that takes its time.
func (p *probe) serveListen(w http.ResponseWriter, r *http.Request) {
	listen := p.listen
	if r.FormValue("network") == "udp" {
		listen = p.listenUDP
	}
	start := time.Now()
	addr, err := listen(r.FormValue("addr"))
	o := outcome(start, err)
	o.Body = addr
	reply(w, o)
}
