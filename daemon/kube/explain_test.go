package kube

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestExplainUnreachable(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "https://" + closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closeOf(t, silent)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	plain, secure := httptest.NewUnstartedServer(handler), httptest.NewUnstartedServer(handler)
	plain.Config.ErrorLog, secure.Config.ErrorLog = discardLog(), discardLog()
	plain.Start()
	defer plain.Close()
	secure.StartTLS()
	defer secure.Close()
	for _, tc := range []struct {
		name  string
		conn  Connection
		wants []string
	}{
		{"refused", Connection{Server: refused}, []string{refused, "connection refused", "kubectl cluster-info"}},
		{"silent", Connection{Server: "https://" + silent.Addr().String(), RequestTimeout: "30ms"}, []string{"no answer in time", "VPN"}},
		{"no such name", Connection{Server: "https://cluster.invalid"}, []string{"cluster.invalid cannot be resolved", "VPN"}},
		{"unknown authority", Connection{Server: secure.URL}, []string{"unknown authority", "--certificate-authority"}},
		{"no TLS", Connection{Server: strings.Replace(plain.URL, "http:", "https:", 1)}, []string{"does not speak TLS"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Connect(tc.conn, Config{})
			if err != nil {
				t.Fatal(err)
			}
			closeOf(t, c)
			for what, err := range map[string]error{"resolve": second(c.Resolve(t.Context(), Ref{Name: "web"})), "access": c.CheckAccess(t.Context(), "")} {
				var none *NoClusterError
				if !errors.As(err, &none) {
					t.Fatalf("%s: a %T: %v", what, err, err)
				}
				for _, want := range append(tc.wants, "no cluster") {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %q misses %q", what, err, want)
					}
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestExplainAnswers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		code  int
		body  string
		typed any
		wants []string
	}{
		{"expired", 401, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}`, new(*ExpiredError), []string{"credentials", "log in again", "401"}},
		{
			"denied", 403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"shop\"","reason":"Forbidden","code":403}`,
			new(*MissingPermissionError),
			[]string{`user "jane"`, "list deployments.apps in namespace shop", "kubectl create rolebinding", "--user='jane' --namespace=shop"},
		},
		{
			"denied for a service account", 403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"deployments.apps is forbidden: User \"system:serviceaccount:shop:dev\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"shop\"","reason":"Forbidden","code":403}`,
			new(*MissingPermissionError),
			[]string{"--serviceaccount=shop:dev"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer server.Close()
			_, err := onServer(t, server).Targets(t.Context())
			if !errors.As(err, tc.typed) {
				t.Fatalf("a %T: %v", err, err)
			}
			for _, want := range tc.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q misses %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "secret-token") {
				t.Errorf("the token is shown: %v", err)
			}
		})
	}
}
