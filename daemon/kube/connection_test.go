package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/cli-runtime/pkg/genericclioptions"
)

func TestFromFlagsMakesNamesAbsolute(t *testing.T) {
	for _, tc := range []struct {
		name    string
		args    []string
		environ []string
		want    Connection
	}{
		{
			name: "nothing given", environ: []string{"HOME=/home/jane"},
			want: Connection{KubeconfigList: []string{"/home/jane/.kube/config"}},
		},
		{
			name: "a list in the environment", environ: []string{"HOME=/home/jane", "KUBECONFIG=one:/etc/two::../three"},
			want: Connection{KubeconfigList: []string{"/src/app/one", "/etc/two", "/src/three"}},
		},
		{
			name: "the flag wins", args: []string{"--kubeconfig=kc"}, environ: []string{"KUBECONFIG=one"},
			want: Connection{Kubeconfig: "/src/app/kc"},
		},
		{name: "neither flag nor home", want: Connection{}},
		{
			name: "all flags",
			args: []string{
				"--kubeconfig=/kc", "--context=c", "--cluster=cl", "--user=u", "-n=ns", "-s=https://s", "--tls-server-name=t",
				"--insecure-skip-tls-verify", "--certificate-authority=ca", "--client-certificate=crt", "--client-key=key",
				"--token=tok", "--as=a", "--as-uid=1", "--as-group=g", "--as-group=h", "--request-timeout=5s", "--disable-compression",
				"--as-user-extra=k=v",
			},
			want: Connection{
				Kubeconfig: "/kc", Context: "c", Cluster: "cl", User: "u", Namespace: "ns", Server: "https://s", TLSServerName: "t",
				InsecureSkipTLSVerify: true, CertificateAuthority: "/src/app/ca", ClientCertificate: "/src/app/crt", ClientKey: "/src/app/key",
				Token: "tok", As: "a", AsUID: "1", AsGroups: []string{"g", "h"}, RequestTimeout: "5s", DisableCompression: true,
				AsUserExtra: []string{"k=v"},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			flags := genericclioptions.NewConfigFlags(true)
			set := newFlagSet(t)
			flags.AddFlags(set)
			if err := set.Parse(tc.args); err != nil {
				t.Fatal(err)
			}
			got := FromFlags(flags, tc.environ, "/src/app")
			got.Environ = nil
			if got.AsGroups != nil && len(got.AsGroups) == 0 {
				got.AsGroups = nil
			}
			if got.AsUserExtra != nil && len(got.AsUserExtra) == 0 {
				got.AsUserExtra = nil
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", asJSON(t, got), asJSON(t, tc.want))
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestConnectionKeepsSecrets(t *testing.T) {
	const secret = "hunter2"
	c := Connection{
		Context: "prod", Token: secret, Username: "jane", Password: secret,
		Environ: []string{"PATH=/bin", "AWS_PROFILE=work", "AWS_SECRET_ACCESS_KEY=" + secret, "HTTPS_PROXY=http://u:" + secret + "@proxy", "http_proxy=http://proxy"},
	}
	for name, text := range map[string]string{
		"String":   c.String(),
		"%v":       fmt.Sprintf("%v", c),
		"%+v":      fmt.Sprintf("%+v", c),
		"%#v":      fmt.Sprintf("%#v", c),
		"Redacted": asJSON(t, c.Redacted()),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("%s shows the secret: %s", name, text)
		}
	}
	if got, want := c.Redacted().Environ, []string{"PATH=/bin", "AWS_PROFILE=work", "http_proxy=http://proxy"}; !reflect.DeepEqual(got, want) {
		t.Errorf("environ = %v, want %v", got, want)
	}
	if c.Token != secret || len(c.Environ) != 5 {
		t.Error("Redacted changed the original")
	}
	var back Connection
	if err := json.Unmarshal([]byte(asJSON(t, c)), &back); err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("JSON does not carry everything: %v\n%+v", err, back)
	}
}

const twoContexts = `
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://one.example:6443"}}
- {name: two, cluster: {server: "https://two.example:6443"}}
users:
- {name: jane, user: {token: abc}}
contexts:
- {name: staging, context: {cluster: one, user: jane, namespace: shop}}
- {name: production, context: {cluster: two, user: jane}}
`

func TestConnectNames(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good", twoContexts+"current-context: staging\n")
	none := write("none", twoContexts)
	gone := write("gone", twoContexts+"current-context: testing\n")
	broken := write("broken", "{")
	for _, tc := range []struct {
		name  string
		conn  Connection
		wants []string // in the error
		typed any
	}{
		{"no file", Connection{Kubeconfig: filepath.Join(dir, "nope")}, []string{"no cluster", "nope does not exist", "--kubeconfig"}, new(*NoClusterError)},
		{"nothing at all", Connection{}, []string{"no cluster", "no kubeconfig", "--kubeconfig"}, new(*NoClusterError)},
		{"list of missing files", Connection{KubeconfigList: []string{filepath.Join(dir, "nope")}}, []string{"no cluster", "nope"}, new(*NoClusterError)},
		{"broken", Connection{Kubeconfig: broken}, []string{"no cluster", "cannot be read", broken}, new(*NoClusterError)},
		{"no current context", Connection{Kubeconfig: none}, []string{"no current context", "--context", "production or staging"}, new(*NoClusterError)},
		{"current context missing", Connection{Kubeconfig: gone}, []string{`"testing"`, "does not exist"}, new(*NoClusterError)},
		{"unknown context", Connection{Kubeconfig: good, Context: "stagin"}, []string{`context "stagin" not found`, "did you mean staging?"}, new(*NotFoundError)},
		{"unknown cluster", Connection{Kubeconfig: good, Cluster: "three"}, []string{`cluster "three" not found`, "one or two"}, new(*NotFoundError)},
		{"unknown user", Connection{Kubeconfig: good, User: "jan"}, []string{`user "jan" not found`, "did you mean jane?"}, new(*NotFoundError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Connect(tc.conn, Config{})
			if err == nil {
				t.Fatal("no error")
			}
			if !errors.As(err, tc.typed) {
				t.Errorf("error is a %T", err)
			}
			for _, want := range tc.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q misses %q", err, want)
				}
			}
		})
	}
	c, err := Connect(Connection{KubeconfigList: []string{filepath.Join(dir, "nope"), good}}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Server() != "https://one.example:6443" || c.Namespace() != "shop" || c.Context() != "staging" {
		t.Errorf("got %s, %s, %s", c.Server(), c.Namespace(), c.Context())
	}
	c, err = Connect(Connection{Kubeconfig: good, Context: "production", Namespace: "x"}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Server() != "https://two.example:6443" || c.Namespace() != "x" || c.Context() != "production" {
		t.Errorf("got %s, %s, %s", c.Server(), c.Namespace(), c.Context())
	}
}

// TestCredentialPlugin checks that a plugin sees the CLI's environment and PATH, not
// this process's, and that its token reaches the server.
func TestCredentialPlugin(t *testing.T) {
	var seen atomic.Value // of the last request; several come at once
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"DeploymentList","apiVersion":"apps/v1","items":[]}`)
	}))
	defer server.Close()
	dir := t.TempDir()
	script := "#!/bin/sh\n" + `printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s-%s"}}' "$FROM_CLI" "$FROM_CONFIG"` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "my-login"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(dir, "config")
	text := fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users:
- name: u
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: my-login
      interactiveMode: Always
      env: [{name: FROM_CONFIG, value: config}]
`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conn := Connection{Kubeconfig: kubeconfig, Environ: []string{"PATH=" + dir + ":/usr/bin:/bin", "FROM_CLI=cli", "FROM_CONFIG=overridden"}}
	c, err := Connect(conn, Config{})
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, c)
	if _, err := c.Targets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "Bearer cli-config"; seen.Load() != want {
		t.Errorf("authorization = %q, want %q", seen.Load(), want)
	}

	conn.Environ = []string{"PATH=/usr/bin:/bin"}
	c, err = Connect(conn, Config{})
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, c)
	_, err = c.Targets(t.Context())
	var expired *ExpiredError
	if !errors.As(err, &expired) || !strings.Contains(err.Error(), "my-login") {
		t.Errorf("without the plugin: %v", err)
	}
}
