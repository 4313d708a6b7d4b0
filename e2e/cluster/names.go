//go:build linux

// Package cluster makes and removes a real Kubernetes, of one node or of some, for
// this clone of the repository: no registry, no Docker, no virtual machine. It knows the
// machine around the node: network namespaces, cgroups, devices, folders, and
// the record of them that lets any later run clean up. What is inside is
// package node's.
package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/teleswap/teleswap/e2e/cluster/netns"
)

// Addresses on the wire between laptop and node, in namespaces of their own,
// and what plays the outside world for the laptop.
const (
	LaptopIP = "192.168.56.1"
	NodeIP   = "192.168.56.2"
	wireBits = "/24"
	// The node's address of the other family; the laptop has none.
	NodeIP6   = "fd00:192:168:56::2"
	wireBits6 = "/64"
	// PublicIP is an address of a documentation range (RFC 5737) that is reached
	// from the laptop only: tests start servers of the laptop's world on it.
	PublicIP = "203.0.113.10"
	// deadIP and deadGateway make a default route that leads nowhere.
	deadIP      = "198.51.100.2"
	deadGateway = "198.51.100.1"
)

// machineRoot holds a folder for each cluster of the machine.
const machineRoot = "/var/lib/teleswap-cluster"

// Names are all names of one clone's cluster. They follow from the clone's
// path, so that two clones do not meet, and a clean-up needs no memory.
type Names struct {
	Clone  string // the clone's root, without symbolic links
	Name   string // of a further cluster of the clone; "" is the first
	ID     string // 8 hex digits
	Node   netns.Namespace
	Laptop netns.Namespace
	Cgroup string
	Home   string // everything on disk but what the user reads
	State  string // below the clone: what the user reads
	// WantPort is where the relay would like to listen on the machine's loopback.
	WantPort int
}

// NewNames derives the names of the clone at a path.
func NewNames(clone string) (Names, error) {
	abs, err := filepath.Abs(clone)
	if err != nil {
		return Names{}, fmt.Errorf("name the cluster of %s: %w", clone, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return Names{}, fmt.Errorf("name the cluster of %s: %w", clone, err)
	}
	return namesFor(real), nil
}

func namesFor(clone string) Names {
	sum := sha256.Sum256([]byte(clone))
	id := hex.EncodeToString(sum[:4])
	return Names{
		Clone:  clone,
		ID:     id,
		Node:   space(id, "node"),
		Laptop: space(id, "laptop"),
		Cgroup: "tsw-" + id,
		Home:   filepath.Join(machineRoot, id),
		State:  filepath.Join(clone, ".cache", "cluster"),
		// Below the range that kernels take ephemeral ports from (32768).
		WantPort: 20000 + (int(sum[4])<<8|int(sum[5]))%10000,
	}
}

// clusterName is what may be in a path.
var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$`)

// Another are the names of a further cluster of the same clone, which shares nothing with the first but the built programs. It
// goes with the first at the latest.
func (n Names) Another(name string) (Names, error) {
	if !clusterName.MatchString(name) {
		return Names{}, fmt.Errorf("a cluster's name %q: want a few of a-z, 0-9 and -", name)
	}
	other := namesFor(n.Clone + "\x00" + name)
	other.Clone, other.Name, other.State = n.Clone, name, filepath.Join(n.Clone, ".cache", "cluster-"+name)
	return other, nil
}

// others are the names of the clone's further clusters that have left a record.
func (n Names) others() ([]Names, error) {
	records, err := filepath.Glob(filepath.Join(machineRoot, "*", filepath.Base(n.record())))
	if err != nil {
		return nil, fmt.Errorf("look for the clone's other clusters: %w", err)
	}
	var found []Names
	for _, path := range records {
		r, err := loadRecord(path)
		if err != nil || r == nil || r.Clone != n.Clone || r.Name == "" {
			continue // another clone's, which may be at it
		}
		other, err := n.Another(r.Name)
		if err != nil {
			return nil, err
		}
		found = append(found, other)
	}
	return found, nil
}

// space is the network namespace of one side.
func space(id, side string) netns.Namespace {
	return netns.Namespace{Name: "tsw-" + id + "-" + side, File: filepath.Join(machineRoot, id, "net", side)}
}

// Kubeconfig is for the machine's own network namespace.
func (n Names) Kubeconfig() string { return filepath.Join(n.State, "kubeconfig") }

// KubeconfigLaptop is for the laptop's network namespace.
func (n Names) KubeconfigLaptop() string { return filepath.Join(n.State, "kubeconfig-laptop") }

// Kubectl is the kubectl of the cluster's own version.
func (n Names) Kubectl() string { return filepath.Join(n.State, "bin", "kubectl") }

func (n Names) etc() string    { return filepath.Join(n.Home, "etc") }
func (n Names) lib() string    { return filepath.Join(n.Home, "lib") }
func (n Names) log() string    { return filepath.Join(n.Home, "log") }
func (n Names) record() string { return filepath.Join(n.Home, "record.json") }

// FindClone looks for the root of the clone in a folder and those above it.
func FindClone(from string) (string, error) {
	dir, err := filepath.Abs(from)
	if err != nil {
		return "", fmt.Errorf("find the clone: %w", err)
	}
	for {
		_, err := os.Stat(filepath.Join(dir, "e2e", "cluster", "parts"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find the clone: %w", err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("%s is not in a clone of the repository: run this there, or give --clone", from)
		}
		dir = parent
	}
}
