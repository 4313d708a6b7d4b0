package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	// keysLifetime outlasts any sensible session: the keys end with the session's
	// Secret, the date only bounds what a leaked key is good for.
	keysLifetime = 7 * 24 * time.Hour
	// clockSkew is how far the pod's clock may be behind the laptop's.
	clockSkew = time.Hour

	serverNamePrefix = "teleswap-agent-"

	caFile   = "ca.crt"
	certFile = "tls.crt"
	keyFile  = "tls.key"
)

// Keys is the material of one session: a certificate authority of its own (whose
// private key is forgotten at once), and a pair for either end, all PEM.
type Keys struct{ CA, ServerCert, ServerKey, ClientCert, ClientKey []byte }

// NewKeys makes the keys of a session. The agent's certificate is valid for the name
// "teleswap-agent-<session>" only. They are valid from an hour before now (clocks
// differ) until seven days after.
func NewKeys(session string, now time.Time) (*Keys, error) {
	if session == "" {
		return nil, errors.New("make session keys: empty session id")
	}
	ca, caKey, err := newAuthority(session, now)
	if err != nil {
		return nil, fmt.Errorf("make session authority: %w", err)
	}
	k := &Keys{CA: pemBlock("CERTIFICATE", ca.Raw)}
	server := &x509.Certificate{
		DNSNames:    []string{serverNamePrefix + session},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if k.ServerCert, k.ServerKey, err = newLeaf(server, ca, caKey); err != nil {
		return nil, fmt.Errorf("make agent certificate: %w", err)
	}
	client := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if k.ClientCert, k.ClientKey, err = newLeaf(client, ca, caKey); err != nil {
		return nil, fmt.Errorf("make laptop certificate: %w", err)
	}
	return k, nil
}

// AgentFiles returns what the agent needs, by file name, for the session's Secret.
func (k *Keys) AgentFiles() map[string][]byte {
	return map[string][]byte{caFile: k.CA, certFile: k.ServerCert, keyFile: k.ServerKey}
}

// ClientTLS returns the laptop's side of the handshake: TLS 1.3, this session's
// authority only, and the agent's name, which it takes from the agent's certificate.
func (k *Keys) ClientTLS() (*tls.Config, error) {
	pair, err := tls.X509KeyPair(k.ClientCert, k.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("read laptop certificate: %w", err)
	}
	roots, err := pool(k.CA)
	if err != nil {
		return nil, fmt.Errorf("read session authority: %w", err)
	}
	name, err := serverName(k.ServerCert)
	if err != nil {
		return nil, fmt.Errorf("read agent certificate: %w", err)
	}
	cfg := baseTLS(pair)
	cfg.RootCAs = roots
	cfg.ServerName = name
	return cfg, nil
}

// LoadAgentTLS reads the agent's side from a folder that holds AgentFiles. A client
// without a certificate of the same authority is refused.
func LoadAgentTLS(dir string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("read agent certificate: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("read session authority: %w", err)
	}
	roots, err := pool(ca)
	if err != nil {
		return nil, fmt.Errorf("read session authority %s: %w", filepath.Join(dir, caFile), err)
	}
	cfg := baseTLS(pair)
	cfg.ClientCAs = roots
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

func baseTLS(pair tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS13,
		// Both ends are ours and speak HTTP/2 with prior knowledge inside.
		NextProtos: []string{"teleswap/1"},
		// One connection lives as long as the session: nothing to resume.
		SessionTicketsDisabled: true,
		// Small first records serve a browser's first paint, and cost us throughput.
		DynamicRecordSizingDisabled: true,
	}
}

func newAuthority(session string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "teleswap session " + session},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(keysLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// newLeaf signs a certificate for a fresh key and returns both as PEM.
func newLeaf(tmpl, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if tmpl.SerialNumber, err = newSerial(); err != nil {
		return nil, nil, err
	}
	tmpl.Subject = ca.Subject
	tmpl.NotBefore, tmpl.NotAfter = ca.NotBefore, ca.NotAfter
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, private.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pemBlock("CERTIFICATE", der), pemBlock("PRIVATE KEY", pkcs8), nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pool(ca []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(bytes.TrimSpace(ca)) {
		return nil, errors.New("no certificate in it")
	}
	return p, nil
}

func serverName(certPEM []byte) (string, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return "", errors.New("not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	if len(cert.DNSNames) != 1 {
		return "", fmt.Errorf("it names %d servers, want 1", len(cert.DNSNames))
	}
	return cert.DNSNames[0], nil
}
