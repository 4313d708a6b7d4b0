package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"slices"
	"testing"
	"time"
)

func parse(t *testing.T, pemBytes []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(pemBytes)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one PEM block: %q", pemBytes)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestSign(t *testing.T) {
	now := time.Now()
	ca, err := NewAuthority("test", now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, ca.Cert))
	for _, tt := range []struct {
		name    string
		subject Subject
		usage   x509.ExtKeyUsage
		host    string
		ok      bool
	}{
		{"client", Subject{Name: "admin", Groups: []string{"system:masters"}}, x509.ExtKeyUsageClientAuth, "", true},
		{"a client is no server", Subject{Name: "admin"}, x509.ExtKeyUsageServerAuth, "", false},
		{"server by name", Subject{Name: "s", Names: []string{"kubernetes"}}, x509.ExtKeyUsageServerAuth, "kubernetes", true},
		{"server by address", Subject{Name: "s", IPs: []net.IP{net.IPv4(10, 96, 0, 1)}}, x509.ExtKeyUsageServerAuth, "10.96.0.1", true},
		{"another server", Subject{Name: "s", Names: []string{"kubernetes"}}, x509.ExtKeyUsageServerAuth, "other", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair, err := ca.Sign(tt.subject)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tls.X509KeyPair(pair.Cert, pair.Key); err != nil {
				t.Errorf("key and certificate: %v", err)
			}
			cert := parse(t, pair.Cert)
			if cert.Subject.CommonName != tt.subject.Name || !slices.Equal(cert.Subject.Organization, tt.subject.Groups) {
				t.Errorf("subject: got %v", cert.Subject)
			}
			_, err = cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: tt.host, KeyUsages: []x509.ExtKeyUsage{tt.usage}, CurrentTime: now})
			if (err == nil) != tt.ok {
				t.Errorf("verify: got %v, want ok=%v", err, tt.ok)
			}
		})
	}
}

func TestOtherAuthority(t *testing.T) {
	now := time.Now()
	ours, err := NewAuthority("test", now)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := NewAuthority("test", now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := theirs.Sign(Subject{Name: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parse(t, ours.Cert))
	if _, err := parse(t, pair.Cert).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("another authority's certificate passed")
	}
}

func TestNewSigningKey(t *testing.T) {
	pair, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := pem.Decode(pair.Cert)
	private, _ := pem.Decode(pair.Key)
	if public == nil || private == nil {
		t.Fatal("not PEM")
	}
	key, err := x509.ParseECPrivateKey(private.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	got, err := x509.ParsePKIXPublicKey(public.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(got) {
		t.Error("the halves do not belong together")
	}
}
