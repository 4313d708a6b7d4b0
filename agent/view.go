package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// Files says where the pod's facts are.
type Files struct {
	ResolvConf string // empty: /etc/resolv.conf
	Hosts      string // empty: /etc/hosts
	Namespace  string // empty: where Kubernetes mounts the service account's
}

func (f Files) withDefaults() Files {
	if f.ResolvConf == "" {
		f.ResolvConf = "/etc/resolv.conf"
	}
	if f.Hosts == "" {
		f.Hosts = "/etc/hosts"
	}
	if f.Namespace == "" {
		f.Namespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	}
	return f
}

// view reports the pod. The agent's environment is the target container's: the agent
// takes flags only.
type view struct {
	files   Files
	version string

	mu    sync.Mutex
	ports []*tunnel.PortState
}

func newView(files Files, version string) *view {
	return &view{files: files, version: version}
}

// setPort notes whether a port is listened on.
func (v *view) setPort(protocol string, port uint16, err error) {
	state := &tunnel.PortState{Port: uint32(port), Protocol: protocol}
	if err != nil {
		state.Error = err.Error()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ports = append(v.ports, state)
}

// resolvConf is the file's content, empty if it cannot be read.
func (v *view) resolvConf() []byte {
	content, _ := os.ReadFile(v.files.ResolvConf)
	return content
}

func (v *view) report() (*tunnel.PodView, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("hostname of the pod: %w", err)
	}
	p := &tunnel.PodView{Name: hostname, Hostname: hostname, AgentVersion: v.version}
	if p.ResolvConf, err = optional(v.files.ResolvConf); err != nil {
		return nil, err
	}
	if p.Hosts, err = optional(v.files.Hosts); err != nil {
		return nil, err
	}
	namespace, err := optional(v.files.Namespace)
	if err != nil {
		return nil, err
	}
	p.Namespace = strings.TrimSpace(string(namespace))
	for _, entry := range os.Environ() {
		p.Env = append(p.Env, []byte(entry))
	}
	if p.PodIps, err = podIPs(); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	p.Ports = v.ports[:len(v.ports):len(v.ports)]
	return p, nil
}

// optional reads a file that a pod need not have.
func optional(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a file of the pod: %w", err)
	}
	return content, nil
}

// podIPs are the addresses that other pods can reach this one by.
func podIPs() ([]string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of the pod: %w", err)
	}
	var ips []string
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if ip := prefix.Addr().Unmap(); ip.IsGlobalUnicast() {
			ips = append(ips, ip.String())
		}
	}
	return ips, nil
}
