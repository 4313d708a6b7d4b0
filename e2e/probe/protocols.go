package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/miekg/dns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// listenGRPC serves gRPC's health service.
func (p *probe) listenGRPC(addr string) (string, error) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	server := grpc.NewServer()
	status := health.NewServer()
	status.SetServingStatus(p.name, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, status)
	go func() { log.Fatal(server.Serve(lis)) }()
	return lis.Addr().String(), nil
}

// serveGRPC asks a health service: one call, and the first message of a stream.
func serveGRPC(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), patience(r))
	defer cancel()
	body, err := askHealth(ctx, r.FormValue("addr"), r.FormValue("service"))
	o := outcome(start, err)
	o.Body = body
	reply(w, o)
}

func askHealth(ctx context.Context, addr, service string) (string, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	client := healthpb.NewHealthClient(conn)
	request := &healthpb.HealthCheckRequest{Service: service}
	one, err := client.Check(ctx, request)
	if err != nil {
		return "", err
	}
	stream, err := client.Watch(ctx, request)
	if err != nil {
		return "", err
	}
	first, err := stream.Recv()
	if err != nil {
		return "", err
	}
	return one.GetStatus().String() + " " + first.GetStatus().String(), nil
}

// serveWebSocket greets, then says again what it is told; with "bye" it ends after the greeting.
func serveWebSocket(w http.ResponseWriter, r *http.Request) {
	var upgrader websocket.Upgrader
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer func() { _ = conn.Close() }()
	if conn.WriteMessage(websocket.TextMessage, []byte("hello from the websocket")) != nil {
		return
	}
	for r.FormValue("bye") == "" {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// serveWebSocketCall reads the greeting, says a text and reads it back.
func serveWebSocketCall(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	reply(w, func() Outcome {
		ctx, cancel := context.WithTimeout(r.Context(), patience(r))
		defer cancel()
		conn, resp, err := websocket.DefaultDialer.DialContext(ctx, r.FormValue("url"), nil)
		if err != nil {
			return outcome(start, err)
		}
		_ = resp.Body.Close()
		defer func() { _ = conn.Close() }()
		_ = conn.SetReadDeadline(start.Add(patience(r)))
		_, greeting, err := conn.ReadMessage()
		if err != nil {
			return outcome(start, err)
		}
		if err := conn.WriteMessage(websocket.TextMessage, []byte(r.FormValue("text"))); err != nil {
			return outcome(start, err)
		}
		_, echo, err := conn.ReadMessage()
		o := outcome(start, err)
		o.Body = string(greeting) + "|" + string(echo)
		return o
	}())
}

// Answer is a DNS server's, without what changes from one time to the next: its id, its
// cookie, the time to live.
type Answer struct {
	Outcome
	Code      string   `json:"code"` // NOERROR, NXDOMAIN …
	Flags     string   `json:"flags"`
	Answer    []string `json:"answer"` // sorted
	Authority []string `json:"authority"`
	EDNS      int      `json:"edns"` // the server's size of datagrams; 0: it sent no OPT record
}

// serveDNS asks the nameserver of resolv.conf, or the one given, for one name and type. Parameters:
// name (absolute), type, net (udp or tcp), edns (size of datagrams), times (how often; the time told is
// the median's).
func serveDNS(w http.ResponseWriter, r *http.Request) {
	answer, err := askDNS(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, answer)
}

func askDNS(r *http.Request) (Answer, error) {
	server := r.FormValue("server")
	if server == "" {
		var err error
		if server, err = nameserver("/etc/resolv.conf"); err != nil {
			return Answer{}, err
		}
	}
	kind, ok := dns.StringToType[r.FormValue("type")]
	if !ok {
		return Answer{}, fmt.Errorf("type %q is not known", r.FormValue("type"))
	}
	query := new(dns.Msg)
	query.SetQuestion(dns.Fqdn(r.FormValue("name")), kind)
	if size, err := strconv.ParseUint(r.FormValue("edns"), 10, 16); err == nil {
		query.SetEdns0(uint16(size), false)
	}
	times, _ := strconv.Atoi(r.FormValue("times")) // none given: once
	client := &dns.Client{Net: r.FormValue("net"), Timeout: patience(r)}
	var took []time.Duration
	var msg *dns.Msg
	for range max(1, times) {
		var err error
		var rtt time.Duration
		query.Id = dns.Id()
		if msg, rtt, err = client.ExchangeContext(r.Context(), query, net.JoinHostPort(server, "53")); err != nil {
			return Answer{Outcome: outcome(time.Now(), err)}, nil
		}
		took = append(took, rtt)
	}
	slices.Sort(took)
	return answerOf(msg, took[len(took)/2]), nil
}

func answerOf(msg *dns.Msg, took time.Duration) Answer {
	a := Answer{
		Outcome: Outcome{OK: true, Milliseconds: float64(took.Microseconds()) / 1000},
		Code:    dns.RcodeToString[msg.Rcode], Answer: records(msg.Answer), Authority: records(msg.Ns),
		Flags: fmt.Sprintf("aa=%v tc=%v rd=%v ra=%v", msg.Authoritative, msg.Truncated, msg.RecursionDesired, msg.RecursionAvailable),
	}
	if opt := msg.IsEdns0(); opt != nil {
		a.EDNS = int(opt.UDPSize())
	}
	return a
}

func records(rrs []dns.RR) []string {
	lines := []string{}
	for _, rr := range rrs {
		rr := dns.Copy(rr)
		rr.Header().Ttl = 0
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Serial = 0 // the server's clock
		}
		lines = append(lines, rr.String())
	}
	slices.Sort(lines)
	return lines
}

func nameserver(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "nameserver" {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s names no nameserver", file)
}
