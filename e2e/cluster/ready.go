//go:build linux

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/teleswap/teleswap/e2e/cluster/node"
)

// askPatience bounds one question to the cluster.
const askPatience = 5 * time.Second

// apiClient asks the API server a few questions; it is no client library.
type apiClient struct {
	base string
	http *http.Client
}

// newAPIClient goes by the relay on the machine's loopback, and so tests it.
func newAPIClient(k *node.Kubeconfig, hostPort int) (*apiClient, error) {
	pair, err := tls.X509KeyPair(k.Client.Cert, k.Client.Key)
	if err != nil {
		return nil, fmt.Errorf("administrator's key: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.CA) {
		return nil, errors.New("the cluster's authority: no certificate in the file")
	}
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, // a few questions; nobody would close what is idle
	}
	return &apiClient{
		base: "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(hostPort)),
		http: &http.Client{Transport: transport, Timeout: askPatience},
	}, nil
}

// get reads an object; into may be nil.
func (a *apiClient) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

func (s *start) waitAPI(ctx context.Context) error {
	var err error
	if s.api, err = newAPIClient(s.admin, s.record.HostPort); err != nil {
		return err
	}
	return s.poll(ctx, "the API server is not ready", func(ctx context.Context) error {
		return s.api.get(ctx, "/readyz", nil)
	})
}

func (s *start) waitNode(ctx context.Context) error {
	return s.poll(ctx, "the node is not ready", func(ctx context.Context) error { return s.api.nodeReady(ctx, s.node.Name) })
}

// nodeReady looks at the node's Ready condition, and for the ServiceAccount
// without which no pod can be made.
func (a *apiClient) nodeReady(ctx context.Context, name string) error {
	var n struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := a.get(ctx, "/api/v1/nodes/"+name, &n); err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return a.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
		}
		if c.Type == "Ready" {
			return fmt.Errorf("node: %s", c.Message)
		}
	}
	return errors.New("node: no Ready condition yet")
}

func (s *start) waitDNS(ctx context.Context) error {
	return s.poll(ctx, "the cluster's DNS does not answer", s.askDNS)
}

// askDNS asks the cluster's DNS, from the node, through its Service: so
// CoreDNS, kube-proxy and the pod network are all seen to work.
func (n Names) askDNS(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resolver := &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
			err = n.Node.Do(func() error {
				var d net.Dialer
				conn, err = d.DialContext(ctx, network, net.JoinHostPort(node.DNSIP, "53"))
				return err
			})
			return conn, err
		},
	}
	const name = "kubernetes.default.svc." + node.DNSDomain + "."
	addrs, err := resolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	if len(addrs) != 1 || addrs[0] != node.ServiceIP {
		return fmt.Errorf("%s is %v, want %s", name, addrs, node.ServiceIP)
	}
	return nil
}

// applyAddOns hands CoreDNS to the API server, by the kubectl that comes with
// it.
func (s *start) applyAddOns(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.built, "bin", "kubectl"), "apply", "--server-side", "--validate=false",
		"--server="+s.api.base, "--certificate-authority="+filepath.Join(s.etc(), "ca.crt"),
		"--client-certificate="+filepath.Join(s.etc(), "admin.crt"), "--client-key="+filepath.Join(s.etc(), "admin.key"),
		"-f", filepath.Join(s.etc(), node.AddOns))
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null", "KUBERC=off", "KUBECACHEDIR="+filepath.Join(s.Home, "kubectl"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

// unfit says why the cluster that is here cannot stay; nil means that it is up
// and well.
func (n Names) unfit(ctx context.Context, key string) error {
	r, err := loadRecord(n.record())
	switch {
	case err != nil:
		return err
	case r == nil || r.Phase != phaseUp:
		return errors.New("it was left half made")
	case r.BootID != bootID():
		return errors.New("the machine was started anew since")
	case !r.Node.Alive():
		return errors.New("its node has ended")
	case key != "" && r.Build != key:
		return errors.New("its programs are not those of this clone any more")
	}
	return n.healthy(ctx, r)
}

// healthy asks a running cluster. It tries for a while: a busy machine is not a
// broken one.
func (n Names) healthy(ctx context.Context, r *Record) error {
	cfg, err := n.nodeConfig()
	if err != nil {
		return err
	}
	admin, err := cfg.ReadAdmin()
	if err != nil {
		return err
	}
	api, err := newAPIClient(admin, r.HostPort)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := errors.Join(api.nodeReady(ctx, node.Name), n.askDNS(ctx))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
