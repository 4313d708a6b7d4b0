//go:build linux

package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/teleswap/teleswap/e2e/cluster/netns"
	"github.com/teleswap/teleswap/e2e/cluster/node"
)

// createNetwork makes the two namespaces and the wire between them. Nothing of
// it shows in the machine's own network namespace.
func (n Names) createNetwork(ctx context.Context) error {
	for _, space := range []netns.Namespace{n.Node, n.Laptop} {
		if err := space.Create(); err != nil {
			return err
		}
	}
	script := map[netns.Namespace][]string{
		n.Node: {
			"link set lo up",
			"link add " + node.LaptopLink + " type veth peer name eth0 netns " + n.Laptop.Name,
			"addr add " + NodeIP + wireBits + " dev " + node.LaptopLink,
			"addr add " + NodeIP6 + wireBits6 + " dev " + node.LaptopLink + " nodad",
			"link set " + node.LaptopLink + " up",
			// Where a packet to a Service would go is looked up before kube-proxy's
			// rules see it. There is no default route: from a pod, the internet is
			// unreachable, and says so at once.
			"route add " + node.ServiceCIDR + " dev " + node.LaptopLink + " src " + NodeIP,
			"route add " + node.ServiceCIDR6 + " dev " + node.LaptopLink + " src " + NodeIP6,
		},
		n.Laptop: {
			"link set lo up",
			"addr add " + LaptopIP + wireBits + " dev eth0",
			"link set eth0 up",
			// The laptop's way to the internet, as far as tools look: there is a
			// default route, and what goes there is never seen again. (A dummy
			// interface would do, but not every kernel has it.)
			"link add internet0 type veth peer name nowhere0",
			"addr add " + deadIP + wireBits + " dev internet0",
			"link set internet0 up",
			"link set nowhere0 up",
			"neigh add " + deadGateway + " lladdr 02:00:00:00:00:01 nud permanent dev internet0",
			"route add default via " + deadGateway + " dev internet0",
			// A host of the internet, for tests to start servers on.
			"addr add " + PublicIP + "/32 dev lo",
		},
	}
	for _, space := range []netns.Namespace{n.Node, n.Laptop} { // the wire's both ends are made in the first
		if err := ip(ctx, space, script[space]); err != nil {
			return err
		}
	}
	return nil
}

// ip runs commands of ip(8) in a namespace, up to the first that fails.
func ip(ctx context.Context, space netns.Namespace, script []string) error {
	cmd := exec.CommandContext(ctx, "ip", "-n", space.Name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(script, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: set up network namespace %s: %w: %s", space.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// spaces are the cluster's namespaces that there can be, and those that are there.
func (n Names) spaces() ([]netns.Namespace, error) {
	all := []netns.Namespace{n.Laptop, n.Node}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(n.Node.File), workerSide+"*"))
	if err != nil {
		return nil, fmt.Errorf("look for the cluster's network namespaces: %w", err)
	}
	for _, f := range files {
		all = append(all, space(n.ID, filepath.Base(f)))
	}
	return all, nil
}

// deleteNetwork removes the namespaces, with who is still in them: they are the
// cluster's, so what a test left there is too.
func (n Names) deleteNetwork(spare map[int]bool) error {
	spaces, err := n.spaces()
	if err != nil {
		return err
	}
	for _, space := range spaces {
		if err := endMembers(space, spare); err != nil {
			return err
		}
		if err := space.Delete(); err != nil {
			return err
		}
	}
	return nil
}
