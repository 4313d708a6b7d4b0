// Command quic is an HTTP/3 server and client, of quic-go's making: what the end-to-end tests send over UDP that is
// not a single datagram. It is a module of its own, so that nothing of the product has quic-go in it. It knows
// nothing of Teleswap.
//
//	quic serve ADDRESS NAME   answers on the address, until it is ended
//	quic get URL              prints the answer
//	quic who URL TIMES NAME   asks so often, prints the last answer, or the first that is not that server's
//	quic post URL BYTES       sends so many bytes, prints the answer
//	quic wait                 does nothing until it is ended
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// patience bounds a call; silence ends a connection, unless it is kept alive: a call may wait for another.
const (
	patience  = time.Minute
	silence   = 30 * time.Second
	keepAlive = 5 * time.Second
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("quic: ")
	if err := run(os.Args[1:], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(args []string, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch {
	case len(args) == 3 && args[0] == "serve":
		return serve(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "get":
		return call(ctx, http.MethodGet, args[1], nil, stdout)
	case len(args) == 4 && args[0] == "who":
		times, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return who(ctx, args[1], times, args[3], stdout)
	case len(args) == 3 && args[0] == "post":
		n, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		return call(ctx, http.MethodPost, args[1], pattern(n), stdout)
	case len(args) == 1 && args[0] == "wait":
		<-ctx.Done()
		return nil
	}
	return errors.New("usage: quic serve ADDRESS NAME | get URL | who URL TIMES NAME | post URL BYTES | wait")
}

func serve(ctx context.Context, address, name string) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	server := &http3.Server{
		Addr: address, Handler: handler(name), TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		QUICConfig: &quic.Config{MaxIdleTimeout: silence},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func handler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/self", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", name, r.Proto, r.RemoteAddr)
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.Copy(w, pattern(n)) // who asked sees that bytes are missing
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, sumOf(r.Body)) })
	// What the server gets where it calls somebody itself.
	mux.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		body, method := io.Reader(nil), http.MethodGet
		if n, err := strconv.ParseInt(r.FormValue("n"), 10, 64); err == nil {
			body, method = pattern(n), http.MethodPost
		}
		if err := call(r.Context(), method, r.FormValue("url"), body, w); err != nil {
			fmt.Fprintln(w, "error:", err)
		}
	})
	return mux
}

// call prints the answer: whole where it is short, its sum otherwise. Trust is not the question here.
func call(ctx context.Context, method, url string, body io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		QUICConfig:      &quic.Config{MaxIdleTimeout: silence, HandshakeIdleTimeout: silence, KeepAlivePeriod: keepAlive},
	}
	defer func() { _ = transport.Close() }()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	const short = 200
	if resp.ContentLength > short || resp.ContentLength < 0 {
		_, err = fmt.Fprintln(stdout, resp.Proto, resp.StatusCode, sumOf(resp.Body))
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s %d %s", resp.Proto, resp.StatusCode, text)
	return err
}

// who asks as often as times says, each time on a connection of its own, unless an answer is of another than the server of that name.
func who(ctx context.Context, url string, times int, name string, stdout io.Writer) error {
	var answer bytes.Buffer
	for range times {
		answer.Reset()
		if err := call(ctx, http.MethodGet, url, nil, &answer); err != nil {
			return err
		}
		if !bytes.Contains(answer.Bytes(), []byte(" "+name+" ")) {
			break
		}
	}
	_, err := answer.WriteTo(stdout)
	return err
}

func sumOf(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", n, hex.EncodeToString(h.Sum(nil)))
}

// pattern is n bytes that never repeat at a power of two: a lost or doubled buffer changes their sum.
func pattern(n int64) io.Reader { return io.LimitReader(&repeat{}, n) }

type repeat struct{ at int }

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.at % 251 * 7)
		r.at = (r.at + 1) % (251 * 257)
	}
	return len(p), nil
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), DNSNames: []string{"quic"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
