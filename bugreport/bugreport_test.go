package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIEPLANTEDKEYPLANTEDKEYPLANTED\nAwEHoUQDQgAEAnotherLineOfTheKey0123\n-----END EC PRIVATE KEY-----\n"
	jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlcGxhbnRlZA"
)

// TestSecretsAreLeftOut plants secrets of all kinds; none of them may be left, and the text around them must be.
func TestSecretsAreLeftOut(t *testing.T) {
	var s Scrubber
	s.Know("hunter2planted", "pl@nted/with:signs", key)
	for _, c := range []struct{ name, text, secret, stays string }{
		{"known", "dial with hunter2planted failed", "hunter2planted", "dial with"},
		{"known, in base64", "data: " + base64.StdEncoding.EncodeToString([]byte("hunter2planted")), base64.StdEncoding.EncodeToString([]byte("hunter2planted")), "data"},
		{"known, in a URL", "GET /?q=" + url.QueryEscape("pl@nted/with:signs"), url.QueryEscape("pl@nted/with:signs"), "GET /?q="},
		{"known, a line of it", "key line AwEHoUQDQgAEAnotherLineOfTheKey0123 seen", "AnotherLineOfTheKey", "key line"},
		{"a private key", "before\n" + strings.ReplaceAll(key, "PLANTED", "UNKNOWN") + "after", "UNKNOWNKEY", "after"},
		{"a private key, cut off", "before " + "-----BEGIN PRIVATE KEY-----\nMIIEunknown0123456789", "MIIEunknown", "before"},
		{"a private key, escaped", `{"k":"-----BEGIN RSA PRIVATE KEY-----\nMIIEunknown0123456789\n-----END RSA PRIVATE KEY-----\n"}`, "MIIEunknown", `{"k":"`},
		{"a key in base64", "client: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFdW5rbm93bg==", "LS0tLS1CRUdJTiBSU0E", "client:"},
		{"a token of a ServiceAccount", "said " + jwt + " to it", jwt, "to it"},
		{"a bearer", "Authorization: Bearer abcdef0123456789planted", "abcdef0123456789planted", "Authorization"},
		{"basic", `Proxy-Authorization="Basic dXNlcjpwbGFudGVk"`, "dXNlcjpwbGFudGVk", "Proxy-Authorization"},
		{"a URL's user", "postgres://app:planted1@db:5432/app", "planted1", "@db:5432/app"},
		{"a variable", "DB_PASSWORD=planted2 PORT=80", "planted2", "PORT=80"},
		{"YAML", "  password: planted3\n  port: 80", "planted3", "port: 80"},
		{"JSON", `{"apiKey":"planted4","port":80}`, "planted4", `"port":80`},
		{"JSON in a log", `msg="{\"token\":\"planted5\",\"port\":80}"`, "planted5", "port"},
		{"JSON, with a quote in it", `{"secret":"plan\"ted6","port":80}`, "ted6", `"port":80`},
		{"a flag", "run --db-password planted7 --port 80", "planted7", "--port 80"},
		{"a flag with =", "run --token=planted8 --port 80", "planted8", "--port 80"},
		{"a cloud's key", "with AKIAIOSFODNN7EXAMPLE as id", "AKIAIOSFODNN7EXAMPLE", "as id"},
		{"a forge's token", "git said ghp_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789", "git said"},
		{"kubeconfig", "    client-key-data: QUJDREVGR0hJSktMTU5PUA==\n", "QUJDREVGR0hJSktMTU5PUA", "client-key-data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(c.text, c.secret) {
				t.Fatalf("the secret %q is not planted in %q", c.secret, c.text)
			}
			got := s.Text(c.text)
			if strings.Contains(got, c.secret) || !strings.Contains(got, c.stays) || !strings.Contains(got, Hidden) {
				t.Errorf("%q became %q", c.text, got)
			}
			if again := s.Text(got); again != got {
				t.Errorf("a second time it becomes %q", again)
			}
		})
	}
}

func TestOrdinaryTextStays(t *testing.T) {
	var s Scrubber
	s.Know("true", "8080", "abc", "", "info")
	for _, text := range []string{
		"time=2026-01-02T03:04:05Z level=INFO msg=\"daemon starts\" pid=8080 version=dev",
		"automountServiceAccountToken: false\nsecretName: web\nsecret:\n  defaultMode: 420",
		"serviceAccountToken:\n  expirationSeconds: 3607\n",
		"https://10.0.0.1:6443 answers; see http://service-b:5100/path@2x",
		"basic idea: true",
	} {
		if got := s.Text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestArchive(t *testing.T) {
	var s Scrubber
	s.Know("hunter2planted")
	var out bytes.Buffer
	a := New(&out, "report", &s, time.Unix(1e9, 0))
	for name, text := range map[string]string{"a.txt": "it is hunter2planted", "cluster/b.yaml": "bytes \xff that are no text"} {
		if err := a.Add(name, "about "+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	zipped, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || h.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", h.Name, h.Mode, err)
		}
		found[h.Name] = string(text)
	}
	if got := found["report/a.txt"]; got != "it is "+Hidden {
		t.Errorf("a.txt is %q", got)
	}
	if got := found["report/cluster/b.yaml"]; !strings.HasPrefix(got, "bytes ") {
		t.Errorf("b.yaml is %q", got)
	}
	if len(a.Entries()) != 2 || len(found) != 2 {
		t.Errorf("entries %v, found %v", a.Entries(), found)
	}
}

// FuzzText has a known secret stand anywhere in any text: it must be gone.
func FuzzText(f *testing.F) {
	f.Add("a ", " b", []byte("hunter2"))
	f.Add(key, jwt, []byte{1, 2, 3})
	f.Add("password=", "", []byte("x"))
	f.Add("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", []byte("abc"))
	f.Fuzz(func(t *testing.T, before, after string, random []byte) {
		secret := "planted" + hex.EncodeToString(random)
		var s Scrubber
		s.Know(secret)
		if got := s.Text(before + secret + after); strings.Contains(got, secret) {
			t.Errorf("%q is in %q", secret, got)
		}
	})
}
