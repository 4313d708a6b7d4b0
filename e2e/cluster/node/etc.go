//go:build linux

package node

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/teleswap/teleswap/e2e/cluster/build"
	"github.com/teleswap/teleswap/e2e/cluster/pki"
)

// AddOns is the folder below Etc with what is applied to every new cluster.
const AddOns = "addons"

//go:embed manifests
var templates embed.FS

// Kubeconfig says how to reach an API server as somebody.
type Kubeconfig struct {
	Server string // https://host:port
	CA     []byte // PEM
	Client pki.Pair
}

// Bytes writes the file with everything in it.
func (k Kubeconfig) Bytes() []byte {
	enc := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: teleswap
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: teleswap
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: teleswap
  context:
    cluster: teleswap
    user: teleswap
    namespace: default
current-context: teleswap
`, k.Server, enc(k.CA), enc(k.Client.Cert), enc(k.Client.Key))
}

// WriteEtc fills the folder Etc of the first node with new keys and with every
// program's configuration. It returns the administrator's kubeconfig for a server
// that is to be filled in.
func (c *Config) WriteEtc(now time.Time) (*Kubeconfig, error) {
	ca, err := pki.NewAuthority("teleswap-cluster", now)
	if err != nil {
		return nil, err
	}
	if err := c.writeKeys(ca, now); err != nil {
		return nil, err
	}
	err = c.writeKubeconfigs(ca, map[string]pki.Subject{
		"controller-manager": {Name: "system:kube-controller-manager"},
		"scheduler":          {Name: "system:kube-scheduler"},
	})
	if err != nil {
		return nil, err
	}
	if err := c.writeNode(ca); err != nil {
		return nil, err
	}
	if err := c.writeTemplates(map[string]string{
		"addons/dns.yaml":            AddOns + "/dns.yaml",
		"addons/network-policy.yaml": AddOns + "/network-policy.yaml",
	}); err != nil {
		return nil, err
	}
	admin, err := ca.Sign(pki.Subject{Name: "admin", Groups: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	if err := c.writePair("admin", admin); err != nil {
		return nil, err
	}
	return &Kubeconfig{Server: c.server(), CA: ca.Cert, Client: admin}, nil
}

// WriteWorkerEtc fills the folder Etc of a further node, with keys that the
// authority in the first node's folder Etc signs.
func (c *Config) WriteWorkerEtc(first string) error {
	var pair pki.Pair
	for file, into := range map[string]*[]byte{"ca.crt": &pair.Cert, "ca.key": &pair.Key} {
		data, err := os.ReadFile(filepath.Join(first, file))
		if err != nil {
			return fmt.Errorf("read the cluster's authority: %w", err)
		}
		*into = data
	}
	ca, err := pki.ReadAuthority(pair)
	if err != nil {
		return err
	}
	if err := c.writeEtc("ca.crt", ca.Cert); err != nil {
		return err
	}
	return c.writeNode(ca)
}

// server is where the API server is found, from nodes and from the laptop.
func (c *Config) server() string { return fmt.Sprintf("https://%s:%d", c.Server, APIPort) }

// writeNode writes what every node has.
func (c *Config) writeNode(ca *pki.Authority) error {
	kubelet := pki.Subject{Name: "system:node:" + c.Name, Groups: []string{"system:nodes"}}
	err := c.writeKubeconfigs(ca, map[string]pki.Subject{
		"kube-proxy": {Name: "system:kube-proxy"},
		"kubelet":    kubelet,
	})
	if err != nil {
		return err
	}
	// For those who call it.
	kubelet.Names, kubelet.IPs = []string{c.Name}, []net.IP{net.ParseIP(c.IP), net.IPv4(127, 0, 0, 1)}
	pair, err := ca.Sign(kubelet)
	if err != nil {
		return err
	}
	if err := c.writePair("kubelet", pair); err != nil {
		return err
	}
	if pair, err = ca.Sign(pki.Subject{Name: policyUser}); err != nil {
		return err
	}
	if err := c.writePair(policyUser, pair); err != nil {
		return err
	}
	err = c.writeTemplates(map[string]string{
		"containerd.toml": "containerd.toml",
		"kubelet.yaml":    "kubelet.yaml",
		"cni.conflist":    "cni/10-pods.conflist",
		"settled.sh":      pluginDir + "/" + settledName,
		"resolv.conf":     "resolv.conf",
	})
	if err != nil {
		return err
	}
	// The one among them that is executed.
	if err := os.Chmod(filepath.Join(c.Etc, pluginDir, settledName), 0o700); err != nil {
		return fmt.Errorf("write the node's configuration: %w", err)
	}
	return nil
}

func (c *Config) writeKubeconfigs(ca *pki.Authority, subjects map[string]pki.Subject) error {
	for file, subject := range subjects {
		pair, err := ca.Sign(subject)
		if err != nil {
			return err
		}
		if err := c.writeEtc(file+".kubeconfig", Kubeconfig{Server: c.server(), CA: ca.Cert, Client: pair}.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) writePair(name string, pair pki.Pair) error {
	if err := c.writeEtc(name+".crt", pair.Cert); err != nil {
		return err
	}
	return c.writeEtc(name+".key", pair.Key)
}

// ReadAdmin reads back what WriteEtc returned for a cluster that is there.
func (c *Config) ReadAdmin() (*Kubeconfig, error) {
	k := &Kubeconfig{Server: c.server()}
	for file, into := range map[string]*[]byte{"ca.crt": &k.CA, "admin.crt": &k.Client.Cert, "admin.key": &k.Client.Key} {
		data, err := os.ReadFile(filepath.Join(c.Etc, file))
		if err != nil {
			return nil, fmt.Errorf("read the administrator's key: %w", err)
		}
		*into = data
	}
	return k, nil
}

func (c *Config) writeKeys(ca *pki.Authority, now time.Time) error {
	loopback, nodeIP := net.IPv4(127, 0, 0, 1), net.ParseIP(c.IP)
	pairs := map[string]pki.Pair{"ca": ca.Pair}
	for file, subject := range map[string]pki.Subject{
		"apiserver": {
			Name:  "kube-apiserver",
			Names: []string{"localhost", c.Name, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + DNSDomain},
			IPs:   []net.IP{loopback, nodeIP, net.ParseIP(ServiceIP)},
		},
		"apiserver-kubelet": {Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
	} {
		pair, err := ca.Sign(subject)
		if err != nil {
			return err
		}
		pairs[file] = pair
	}
	// An authority of its own: who it signs for may speak in anybody's name.
	front, err := pki.NewAuthority("teleswap-cluster-front-proxy", now)
	if err != nil {
		return err
	}
	pairs["front-proxy-ca"] = front.Pair
	if pairs["front-proxy-client"], err = front.Sign(pki.Subject{Name: frontProxy}); err != nil {
		return err
	}
	for file, pair := range pairs {
		if err := c.writePair(file, pair); err != nil {
			return err
		}
	}
	tokens, err := pki.NewSigningKey()
	if err != nil {
		return err
	}
	if err := c.writeEtc("sa.pub", tokens.Cert); err != nil {
		return err
	}
	return c.writeEtc("sa.key", tokens.Key)
}

// writeTemplates writes configurations that are files in manifests/.
func (c *Config) writeTemplates(files map[string]string) error {
	podCIDR, podCIDR6 := PodCIDRs(c.Index)
	values := map[string]any{
		"Cgroup": c.Group.Name, "IP": c.IP,
		"Bin": BinDir, "Etc": EtcDir, "Socket": ContainerdSocket,
		"Snapshotter": c.Snapshotter, "KeepOOM": c.KeepOOM,
		"PauseImage": build.PauseRef, "DNSImage": build.CoreDNSRef,
		"PodCIDR": podCIDR, "PodCIDR6": podCIDR6, "Plugins": EtcDir + "/" + pluginDir, "Settled": settledName,
		"DNSIP": DNSIP, "Domain": DNSDomain, "PolicyUser": policyUser,
	}
	for source, target := range files {
		text, err := templates.ReadFile("manifests/" + source)
		if err != nil {
			return fmt.Errorf("configuration %s: %w", source, err)
		}
		t, err := template.New(source).Option("missingkey=error").Parse(string(text))
		if err != nil {
			return fmt.Errorf("configuration %s: %w", source, err)
		}
		var out bytes.Buffer
		if err := t.Execute(&out, values); err != nil {
			return fmt.Errorf("configuration %s: %w", source, err)
		}
		if err := c.writeEtc(target, out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// pluginDir is the folder below Etc with network plugins of our own; settledName is
// the one that is there, see manifests/settled.sh.
const (
	pluginDir   = "cni-bin"
	settledName = "settled"
)

func (c *Config) writeEtc(name string, data []byte) error {
	p := filepath.Join(c.Etc, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return fmt.Errorf("write the node's configuration: %w", err)
	}
	if err := os.WriteFile(p, data, 0o600); err != nil {
		return fmt.Errorf("write the node's configuration: %w", err)
	}
	return nil
}
