package scene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// anotherName is the name of a second cluster, and of all that its kubeconfig names.
const anotherName = "another"

// firstOfAnother is the number of the first world of a second cluster. Its users must be none of the first's.
const firstOfAnother = maxWorlds / 2

// anotherCluster is a second cluster, for as long as a test wants it.
type anotherCluster struct {
	first *Lab
	relay relay
}

// AnotherCluster is a cluster beside the embedded one, with the same addresses for its node, its Services and its pods, which the
// same laptop reaches by a kubeconfig of other names. It has the images of the agent and of the probe alone. It is this test's alone and
// goes with it. With a cluster of the user's own the test is skipped.
func (w *World) AnotherCluster() *Lab {
	w.T.Helper()
	if !w.Lab.Embedded() {
		w.T.Skip("needs the embedded cluster, beside which it makes another")
	}
	w.Lab.another.Lock()
	w.T.Cleanup(w.Lab.another.Unlock)
	a := &anotherCluster{first: w.Lab}
	w.T.Cleanup(func() {
		if err := a.close(); err != nil {
			w.T.Error(err)
		}
	})
	lab, err := a.open(w.T.Context())
	w.must(err, "make another cluster")
	return lab
}

func (a *anotherCluster) dir() string { return filepath.Join(a.first.Dir, anotherName) }

func (a *anotherCluster) open(ctx context.Context) (*Lab, error) {
	l, began := a.first, time.Now()
	for _, argv := range [][]string{{"up"}, {"load-image", l.archive("agent"), l.archive("probe")}} {
		if err := runQuietly(l.cluster(ctx, append([]string{"--name", anotherName}, argv...)...)); err != nil {
			return nil, err
		}
	}
	s, err := l.clusterStatus(ctx, "--name", anotherName)
	if err != nil {
		return nil, err
	}
	dir := a.dir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a folder for the other cluster's worlds: %w", err)
	}
	other := &Lab{
		Root: l.Root, Dir: dir, Bin: l.Bin, Images: Images{Agent: l.Images.Agent, Probe: l.Images.Probe}, Laptop: l.Laptop,
		Kubectl: s.Kubectl, kubeconfig: s.Kubeconfig, laptopKubeconfig: filepath.Join(dir, "kubeconfig"), laptopNet: l.laptopNet, nodePID: s.PID, log: l.log,
	}
	other.worlds.Store(firstOfAnother)
	server, err := renameCluster(s.Kubeconfig, other.laptopKubeconfig)
	if err != nil {
		return nil, err
	}
	// The API server is at the machine's loopback. The laptop shall find it at its own.
	if err := a.relay.open(l.Laptop.net, server); err != nil {
		return nil, err
	}
	if err := other.connect(ctx); err != nil {
		return nil, err
	}
	l.say("make another cluster (%s)", time.Since(began).Round(100*time.Millisecond))
	return other, nil
}

// close takes the cluster away, however much of it there is.
func (a *anotherCluster) close() error {
	a.relay.close()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // the test's own has ended
	defer cancel()
	if err := runQuietly(a.first.cluster(ctx, "--name", anotherName, "down")); err != nil {
		return fmt.Errorf("take the other cluster away: %w", err)
	}
	return os.RemoveAll(a.dir())
}

// renameCluster copies a kubeconfig of one cluster under other names, so that it can stand beside that of the first, and returns the API
// server's HOST:PORT.
func renameCluster(from, to string) (server string, err error) {
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return "", fmt.Errorf("load %s: %w", from, err)
	}
	current := config.Contexts[config.CurrentContext]
	cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]
	clear(config.Clusters)
	clear(config.AuthInfos)
	clear(config.Contexts)
	current.Cluster, current.AuthInfo, config.CurrentContext = anotherName, anotherName, anotherName
	config.Clusters[anotherName], config.AuthInfos[anotherName], config.Contexts[anotherName] = cluster, user, current
	u, err := url.Parse(cluster.Server)
	if err != nil {
		return "", fmt.Errorf("read the API server's address: %w", err)
	}
	return u.Host, clientcmd.WriteToFile(*config, to)
}

// relay joins connections to a port of the laptop's loopback to the same port of the machine's.
type relay struct {
	lis     net.Listener
	running sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // both ends of all that ever were
}

func (r *relay) open(laptop netns, address string) (err error) {
	if r.lis, err = laptop.listen(address); err != nil {
		return fmt.Errorf("listen on the laptop for the other cluster: %w", err)
	}
	r.running.Go(func() { r.acceptLoop(address) })
	return nil
}

// acceptLoop ends with the listener.
func (r *relay) acceptLoop(address string) {
	for {
		c, err := r.lis.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		to, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			_ = c.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, c, to)
		r.mu.Unlock()
		for _, pair := range [][2]net.Conn{{c, to}, {to, c}} {
			r.running.Go(func() { // ends with either
				_, _ = io.Copy(pair[0], pair[1])
				_ = pair[0].Close()
				_ = pair[1].Close()
			})
		}
	}
}

// close ends the connections, too.
func (r *relay) close() {
	if r.lis == nil {
		return
	}
	_ = r.lis.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}
