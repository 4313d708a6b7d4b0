package scene

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/place"
)

// Forward is a running `kubectl port-forward`. Close must be called.
type Forward struct {
	// Address is on the laptop.
	Address string
	process *place.Process
}

// kubectl says "Forwarding from 127.0.0.1:41235 -> 7000".
var forwardingLine = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) `)

// PortForward forwards a free port of the laptop to the server's pod. kubectl
// is guarded by a probe, so that it does not outlive a killed bench.
func (s *Scene) PortForward(ctx context.Context, pod string) (*Forward, error) {
	process, err := place.Start(s.Laptop.Command(s.Probe, "guard",
		s.Kubectl, "port-forward", "-n", s.Namespace, "--address", "127.0.0.1", "pod/"+pod, fmt.Sprintf(":%d", s.Port)))
	if err != nil {
		return nil, err
	}
	stdout := place.NewLines()
	go copyLines(stdout, process)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	line, err := stdout.Await(ctx, forwardingLine.MatchString)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for kubectl port-forward: %w; stderr: %s", err, process.Stderr().Tail(5)),
			process.Stop(5*time.Second))
	}
	return &Forward{Address: forwardingLine.FindStringSubmatch(line.Text)[1], process: process}, nil
}

// copyLines ends when the process has closed its output.
func copyLines(lines *place.Lines, process *place.Process) {
	defer lines.Close()
	buf := make([]byte, 4096)
	for {
		n, err := process.Stdout.Read(buf)
		if n > 0 {
			_, _ = lines.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// Alive tells whether kubectl still runs; a connection of its own that broke
// ends it.
func (f *Forward) Alive() bool {
	select {
	case <-f.process.Exited():
		return false
	default:
		return true
	}
}

// LastWords are the last lines of kubectl's stderr.
func (f *Forward) LastWords() string { return f.process.Stderr().Tail(2) }

// Close ends kubectl.
func (f *Forward) Close() error { return f.process.Stop(5 * time.Second) }
