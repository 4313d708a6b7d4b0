package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// listenUDP answers each datagram with who sent it, to which address it came and what was in it.
func (p *probe) listenUDP(addr string) (string, error) {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return "", err
	}
	go func() {
		buf := make([]byte, 64*1024)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				if errors.Is(err, syscall.ECONNREFUSED) {
					continue // a client that has gone does not end the server
				}
				log.Fatal(err)
			}
			answer := fmt.Sprintf("%s %s %s", p.name, from, sumOf(strings.NewReader(string(buf[:n]))))
			_, _ = conn.WriteTo([]byte(answer), from) // who asked sees that no answer comes
		}
	}()
	return conn.LocalAddr().String(), nil
}

// listenRaw is a server that speaks first. Then it reads a line: "sum" (read until the client has
// ended its side, answer with the sum), "reset" (break the connection), "quit" (end it).
func (p *probe) listenRaw(addr string) (string, error) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go serveRaw(conn.(*net.TCPConn))
		}
	}()
	return lis.Addr().String(), nil
}

func serveRaw(conn *net.TCPConn) {
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "220 raw, %s\n", conn.RemoteAddr())
	in := bufio.NewReader(conn)
	switch line, _ := in.ReadString('\n'); line {
	case "sum\n":
		fmt.Fprintln(conn, sumOf(in))
	case "reset\n":
		_ = conn.SetLinger(0)
	}
}

// serveUDP sends a datagram of the text, or of n bytes, and waits for one in answer.
func serveUDP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	reply(w, func() Outcome {
		conn, err := net.DialTimeout("udp", r.FormValue("addr"), patience(r))
		if err != nil {
			return outcome(start, err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(start.Add(patience(r)))
		datagram, err := io.ReadAll(content(r))
		if err != nil {
			return outcome(start, err)
		}
		if _, err := conn.Write(datagram); err != nil {
			return outcome(start, err)
		}
		buf := make([]byte, 64*1024)
		n, err := conn.Read(buf)
		o := outcome(start, err)
		o.Body = string(buf[:n])
		o.Addresses = []string{conn.LocalAddr().String()}
		return o
	}())
}

// serveRawCall says a line to a server of listenRaw, and n bytes after "sum"; then it ends its side and
// reads until the server has ended the other.
func serveRawCall(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	reply(w, func() Outcome {
		conn, err := net.DialTimeout("tcp", r.FormValue("addr"), patience(r))
		if err != nil {
			return outcome(start, err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(start.Add(patience(r)))
		in := bufio.NewReader(conn)
		banner, err := in.ReadString('\n') // before a word of ours
		if err != nil {
			return outcome(start, err)
		}
		if _, err := io.WriteString(conn, r.FormValue("say")+"\n"); err != nil {
			return outcome(start, err)
		}
		if r.FormValue("n") != "" {
			if _, err := io.Copy(conn, content(r)); err != nil {
				return outcome(start, err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				return outcome(start, err)
			}
		}
		answer, err := io.ReadAll(in)
		o := outcome(start, err)
		o.Addresses, o.Body = []string{strings.TrimSpace(banner)}, string(answer)
		return o
	}())
}

// servePing sends one ICMP echo request (RFC 792, RFC 4443) by a socket that needs no privilege
// (icmp(7), net.ipv4.ping_group_range) and waits for the answer.
func servePing(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	reply(w, outcome(start, ping(r.FormValue("addr"), patience(r))))
}

func ping(addr string, limit time.Duration) error {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	family, protocol, request, reply := syscall.AF_INET, syscall.IPPROTO_ICMP, byte(8), byte(0)
	var to syscall.Sockaddr
	if ip.Is6() {
		family, protocol, request, reply = syscall.AF_INET6, syscall.IPPROTO_ICMPV6, 128, 129
		to = &syscall.SockaddrInet6{Addr: ip.As16()}
	} else {
		to = &syscall.SockaddrInet4{Addr: ip.As4()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = syscall.Close(fd) }()
	timeout := syscall.NsecToTimeval(int64(limit))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if err := syscall.Connect(fd, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	echo := append([]byte{request, 0, 0, 0, 0, 0, 0, 7}, "teleswap's probe"...)
	binary.BigEndian.PutUint16(echo[2:], checksum(echo)) // the kernel does it anew, over IPv6 with the addresses
	if _, err := syscall.Write(fd, echo); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	answer := make([]byte, 1500)
	n, err := syscall.Read(fd, answer)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if n < 8 || answer[0] != reply || string(answer[8:n]) != string(echo[8:]) {
		return fmt.Errorf("answer %x", answer[:n])
	}
	return nil
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// accountDir is where a pod finds its ServiceAccount's token.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount/"

// serveInCluster asks the API server for a path, in the way every in-cluster client does: by the
// variables, the certificate and the token of the pod.
func serveInCluster(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), patience(r))
	defer cancel()
	status, body, err := inCluster(ctx, r.FormValue("path"))
	o := outcome(start, err)
	o.Status, o.Body = status, body
	reply(w, o)
}

func inCluster(ctx context.Context, path string) (int, string, error) {
	ca, err := os.ReadFile(accountDir + "ca.crt")
	if err != nil {
		return 0, "", err
	}
	token, err := os.ReadFile(accountDir + "token")
	if err != nil {
		return 0, "", err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return 0, "", errors.New("ca.crt has no certificate")
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
