//go:build linux

// Package node is what runs inside a node of the cluster: it makes the private
// mounts of the machine that the node plays, and then, as process 1 of its PID
// namespace, starts Kubernetes' programs and starts again those that end. When
// process 1 is killed, the kernel ends all others, pods included.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/teleswap/teleswap/e2e/cluster/cgroup"
)

// Places inside the node's mount namespace. They are the same in every
// cluster, and short: a unix socket's path has 108 bytes.
const (
	home      = "/run/cluster"
	BinDir    = home + "/bin"    // the programs
	EtcDir    = home + "/etc"    // keys and configurations
	ImageDir  = home + "/images" // images that every cluster has
	LogDir    = "/var/log/cluster"
	RuntimeIP = "127.0.0.1"

	ContainerdSocket = "/run/containerd/containerd.sock"
)

// Generation counts what is run in the node: raise it with every change that a cluster which
// is up must be made anew for.
const Generation = 1

// Addresses inside the cluster. Every cluster has the same: each is in network
// namespaces of its own.
const (
	ServiceCIDR = "10.96.0.0/16"
	ServiceIP   = "10.96.0.1"
	DNSIP       = "10.96.0.10"
	ClusterCIDR = "10.244.0.0/16"
	// Of the unique local range (RFC 4193). A Service has IPv6 if it asks for it,
	// a pod always; both have IPv4 first.
	ServiceCIDR6 = "fd00:10:96::/112"
	ClusterCIDR6 = "fd00:10:244::/56"
	DNSDomain    = "cluster.local"
	APIPort      = 6443
	// Name is that of the first node, on which the control plane runs.
	Name = "node"
)

// PodCIDRs are the ranges of the pods of the node with that index, which is 0 for the
// first and below 10. The controller that shares the ranges out comes to the same.
func PodCIDRs(index int) (four, six string) {
	return fmt.Sprintf("10.244.%d.0/24", index), fmt.Sprintf("fd00:10:244:%d::/64", index)
}

// Config is what process 1 gets from who starts it.
type Config struct {
	Name        string // of the node
	Index       int    // 0 for the node with the control plane
	Server      string // the address of the API server
	Group       cgroup.Group
	NetNS       string // path of the node's network namespace
	IP, IP6     string // the node's addresses on the way to the laptop
	Bin         string // on the machine: the built programs
	Images      string // on the machine: the built images
	Etc         string // on the machine: keys and configurations
	Lib         string // on the machine: becomes the node's /var/lib
	Log         string // on the machine: becomes the node's /var/log
	HostPort    int    // the relay to the API server listens on the machine's 127.0.0.1 here
	HostNetFD   int    // open file of the machine's network namespace; set by Stage
	Snapshotter string // containerd's
	KeepOOM     bool   // the machine withholds CAP_SYS_RESOURCE: leave oom_score_adj alone
}

// readConfig waits for the whole configuration. The writer closes the pipe
// once it has recorded our process id; if it dies before, we read too little.
func readConfig(r io.Reader) (*Config, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read the node's configuration: %w", err)
	}
	if len(data) == 0 {
		return nil, errors.New("read the node's configuration: who started this node is gone")
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("read the node's configuration: %w", err)
	}
	return &c, nil
}
