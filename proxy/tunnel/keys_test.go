package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"
)

// shakeHands runs both sides' handshakes over a pipe and returns their errors.
func shakeHands(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	near, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		conn, err := ServerHandshake(server)(ctx, far)
		if err == nil {
			defer func() { _ = conn.Close() }()
		}
		served <- err
	}()
	conn, clientErr := ClientHandshake(client)(ctx, near)
	serverErr = <-served
	if clientErr == nil {
		_ = conn.Close()
	}
	return clientErr, serverErr
}

func mustKeys(t *testing.T, session string, now time.Time) *Keys {
	t.Helper()
	k, err := NewKeys(session, now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustClientTLS(t *testing.T, k *Keys) *tls.Config {
	t.Helper()
	cfg, err := k.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestHandshake(t *testing.T) {
	now := time.Now()
	ours := mustKeys(t, "k3f9qz", now)
	others := mustKeys(t, "k3f9qz", now)
	server, err := LoadAgentTLS(writeAgentFiles(t, ours))
	if err != nil {
		t.Fatal(err)
	}
	// Another session's agent, whose certificate our authority has signed all the same.
	misnamed := *ours
	misnamed.ServerCert = mustKeys(t, "abc123", now).ServerCert

	tests := []struct {
		name         string
		client       func() *tls.Config
		clientRefuse bool
		serverRefuse bool
	}{
		{name: "our own", client: func() *tls.Config { return mustClientTLS(t, ours) }},
		{
			name:         "another authority on both sides",
			client:       func() *tls.Config { return mustClientTLS(t, others) },
			clientRefuse: true, serverRefuse: true,
		},
		{
			name: "a certificate of another authority",
			client: func() *tls.Config {
				cfg := mustClientTLS(t, ours)
				cfg.Certificates = mustClientTLS(t, others).Certificates
				return cfg
			},
			clientRefuse: true, serverRefuse: true,
		},
		{
			name: "no certificate",
			client: func() *tls.Config {
				cfg := mustClientTLS(t, ours)
				cfg.Certificates = nil
				return cfg
			},
			clientRefuse: true, serverRefuse: true,
		},
		{
			name: "the agent's certificate as the laptop's",
			client: func() *tls.Config {
				cfg := mustClientTLS(t, ours)
				cfg.Certificates = server.Certificates
				return cfg
			},
			clientRefuse: true, serverRefuse: true,
		},
		{
			name:         "another name",
			client:       func() *tls.Config { return mustClientTLS(t, &misnamed) },
			clientRefuse: true, serverRefuse: true,
		},
		{
			name: "TLS 1.2",
			client: func() *tls.Config {
				cfg := mustClientTLS(t, ours)
				cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
				return cfg
			},
			clientRefuse: true, serverRefuse: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clientErr, serverErr := shakeHands(t, tt.client(), server)
			if (clientErr != nil) != tt.clientRefuse {
				t.Errorf("client: %v", clientErr)
			}
			if (serverErr != nil) != tt.serverRefuse {
				t.Errorf("server: %v", serverErr)
			}
		})
	}
}

func TestKeysValidity(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	k := mustKeys(t, "k3f9qz", now)
	for name, b := range map[string][]byte{"ca": k.CA, "server": k.ServerCert, "client": k.ClientCert} {
		block, _ := pem.Decode(b)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := now.Sub(cert.NotBefore); got != clockSkew {
			t.Errorf("%s: begins %s before now, want %s", name, got, clockSkew)
		}
		if got := cert.NotAfter.Sub(now); got != keysLifetime {
			t.Errorf("%s: ends %s after now, want %s", name, got, keysLifetime)
		}
	}
	if name, err := serverName(k.ServerCert); name != "teleswap-agent-k3f9qz" || err != nil {
		t.Errorf("server name %q, %v", name, err)
	}
	if _, err := NewKeys("", now); err == nil {
		t.Error("keys for no session")
	}
}

func TestAgentFilesAreEnoughAndNoMore(t *testing.T) {
	k := mustKeys(t, "k3f9qz", time.Now())
	files := k.AgentFiles()
	if len(files) != 3 {
		t.Errorf("%d files", len(files))
	}
	for name, content := range files {
		if strings.Contains(string(content), string(k.ClientKey)) {
			t.Errorf("%s holds the laptop's key", name)
		}
	}
	if _, err := LoadAgentTLS(t.TempDir()); err == nil {
		t.Error("no error without files")
	}
}

func TestHandshakeEndsWithContext(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = far.Read(make([]byte, 1)) // the hello has begun, and no more comes
		cancel()
	}()
	_, err := ClientHandshake(mustClientTLS(t, mustKeys(t, "k3f9qz", time.Now())))(ctx, near)
	if err == nil || ctx.Err() == nil {
		t.Fatalf("got %v", err)
	}
	if _, err := near.Write(nil); err == nil {
		t.Error("the raw connection is left open")
	}
}

// Large writes go to the transport in one piece, small ones unchanged.
func TestBatchedWrites(t *testing.T) {
	keys := mustKeys(t, "k3f9qz", time.Now())
	server, err := LoadAgentTLS(writeAgentFiles(t, keys))
	if err != nil {
		t.Fatal(err)
	}
	rawNear, rawFar := net.Pipe()
	counting := &countingConn{Conn: rawNear}
	far := make(chan net.Conn, 1)
	go func() {
		conn, err := ServerHandshake(server)(t.Context(), rawFar)
		if err != nil {
			t.Error(err)
		}
		far <- conn
	}()
	near, err := ClientHandshake(mustClientTLS(t, keys))(t.Context(), counting)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = near.Close() }()
	other := <-far
	defer func() { _ = other.Close() }()
	for _, size := range []int{1, 16 << 10, 100 << 10} {
		before := counting.writes
		want := strings.Repeat("x", size)
		got := make([]byte, size)
		read := make(chan error, 1)
		go func() {
			_, err := readFull(other, got)
			read <- err
		}()
		if n, err := near.Write([]byte(want)); n != size || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		if err := <-read; err != nil || string(got) != want {
			t.Fatalf("read differs, %v", err)
		}
		if n := counting.writes - before; n != 1 {
			t.Errorf("%d bytes took %d writes", size, n)
		}
	}
}

func readFull(conn net.Conn, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := conn.Read(b[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// countingConn counts writes. Only its writer looks at the count.
type countingConn struct {
	net.Conn
	writes int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}
