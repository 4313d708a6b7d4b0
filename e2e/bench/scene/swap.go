package scene

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/load"
	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/remote"
	"github.com/teleswap/teleswap/e2e/bench/report"
)

// Swap is a running `teleswap swap` whose local process is a probe. Close must
// be called; it ends the probe, upon which teleswap restores the target.
type Swap struct {
	*Peer
	// Typed is when the command was started, Done when it said swapped.
	Typed, Done time.Time
	// Steps are the product's own account of the swap.
	Steps []report.Step
	// Transport is the one that the product chose, if it says so.
	Transport string
	target    string
	laptop    place.Place
}

// swapPatience is for a swap to be done.
const swapPatience = 60 * time.Second

// Swap swaps the target of the transport, and waits until that is done. The
// transport is asked for by the environment; empty leaves it to the product.
func (s *Scene) Swap(ctx context.Context, transport string) (*Swap, error) {
	ctx, cancel := context.WithTimeout(ctx, swapPatience)
	defer cancel()
	w := &Swap{Typed: time.Now(), target: Target(transport), laptop: s.laptopFor(transport)}
	argv := []string{s.Teleswap, "swap", "--deployment", w.target, "-n", s.Namespace}
	if s.AgentImage != "" {
		argv = append(argv, "--agent-image", s.AgentImage)
	}
	argv = append(argv, "--run", s.Probe, "measure", "--listen", fmt.Sprintf(":%d", s.Port), "--name", LocalName)
	process, err := place.Start(w.laptop.Command(argv...))
	if err != nil {
		return nil, err
	}
	if w.Peer, err = s.greet(ctx, process); err != nil {
		return nil, fmt.Errorf("swap %s: %w", w.target, err)
	}
	line, err := process.Stderr().Await(ctx, isSwapped)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait until %s is swapped: %w", w.target, err), w.Close())
	}
	w.Done = line.At
	s.askStatus(ctx, w)
	return w, nil
}

// laptopFor gives each transport a daemon of its own: the daemon has the
// environment of the command that started it.
func (s *Scene) laptopFor(transport string) place.Place {
	laptop := s.Laptop
	if transport == "" {
		return laptop
	}
	laptop.Env = slices.Clone(laptop.Env)
	for i, entry := range laptop.Env {
		if name, value, _ := strings.Cut(entry, "="); name == "TELESWAP_RUNTIME_DIR" || name == "XDG_STATE_HOME" {
			laptop.Env[i] = name + "=" + value + "-" + transport
		}
	}
	laptop.Env = append(laptop.Env, "TELESWAP_TRANSPORT="+transport)
	return laptop
}

// QuitDaemon ends the daemon of the transport, so that the next swap starts
// one as the first swap of a day does.
func (s *Scene) QuitDaemon(ctx context.Context, transport string) error {
	_, err := place.Output(ctx, s.laptopFor(transport).Command(s.Teleswap, "quit"), "")
	return err
}

// AgentAddress returns where the swap's pod listens in the target's place.
func (s *Scene) AgentAddress(ctx context.Context, w *Swap) (string, error) {
	_, address, err := s.pod(ctx, "app="+w.target+",teleswap.dev/session")
	return address.String(), err
}

func isSwapped(line string) bool { return strings.HasPrefix(line, "swapped: ") }

// status is the part of `teleswap status -o json` that is read here.
type status struct {
	Sessions []struct {
		Target, Transport string
		Steps             []struct {
			Name, State  string
			Milliseconds float64
		}
	}
}

// askStatus fills in the steps and the transport; where status does not tell
// them, the step lines of the command do.
func (s *Scene) askStatus(ctx context.Context, w *Swap) {
	w.Steps, _ = stepsOfLines(w.Process.Stderr().All())
	out, err := place.Output(ctx, w.laptop.Command(s.Teleswap, "status", "-o", "json"), "")
	var st status
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	if err != nil {
		s.Logger.Warn("status does not tell of the swap", "err", err)
		return
	}
	for _, session := range st.Sessions {
		if !strings.Contains(session.Target, w.target) {
			continue
		}
		w.Transport = session.Transport
		if len(session.Steps) > 0 {
			w.Steps = nil
		}
		for _, step := range session.Steps {
			w.Steps = append(w.Steps, report.Step{Name: step.Name, Milliseconds: step.Milliseconds})
		}
	}
}

// stepLine is "✓ resolve   deployment/service-a:app in default   12ms".
var stepLine = regexp.MustCompile(`^✓ (\S+) .*?([0-9.]+)(µs|ms|s)$`)

// stepsOfLines reads the steps of the swap and, after "restoring: …", of its
// end.
func stepsOfLines(lines []place.Line) (steps, undos []report.Step) {
	unit := map[string]float64{"µs": 0.001, "ms": 1, "s": 1000}
	into := &steps
	for _, line := range lines {
		if strings.HasPrefix(line.Text, "restoring: ") {
			into = &undos
		}
		m := stepLine.FindStringSubmatch(strings.TrimSpace(line.Text))
		if m == nil {
			continue
		}
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			continue
		}
		*into = append(*into, report.Step{Name: m[1], Milliseconds: value * unit[m[3]]})
	}
	return steps, undos
}

// TimeSwap swaps and restores once, with a client in the cluster asking the
// target's Service all the while.
func (s *Scene) TimeSwap(ctx context.Context, client *Peer) (report.Swap, error) {
	service, err := s.ServiceAddress(ctx, Target(""))
	if err != nil {
		return report.Swap{}, err
	}
	// Pods are ready a second before kube-proxy knows them all.
	before := s.await(ctx, client, service, PodName)
	defer before.cancel()
	if original := <-before.result; original.err != nil {
		return report.Swap{}, original.err
	}
	local := s.await(ctx, client, service, LocalName)
	w, err := s.Swap(ctx, "")
	if err != nil {
		local.cancel()
		<-local.result
		return report.Swap{}, err
	}
	answered := <-local.result
	local.cancel()
	if answered.err != nil {
		return report.Swap{}, errors.Join(answered.err, w.Close())
	}
	run := report.Swap{
		Steps:    w.Steps,
		Started:  milliseconds(w.Hello().At.Sub(w.Typed)),
		Swapped:  milliseconds(w.Done.Sub(w.Typed)),
		Answered: milliseconds(answered.At.Sub(w.Typed)),
	}
	answered.countLosses(&run, "in the swap")
	if err := s.settle(ctx, w); err != nil {
		return run, errors.Join(err, w.Close())
	}
	return run, s.timeRestore(ctx, client, service, w, &run)
}

// settle waits until the originals are gone, also for kube-proxy, which takes
// up changes once a second: otherwise they are still there to answer.
func (s *Scene) settle(ctx context.Context, w *Swap) error {
	if _, err := s.kubectl(ctx, "", "wait", "--for=delete", "pod", "-n", s.Namespace,
		"-l", "app="+w.target+",!teleswap.dev/session", "--timeout=60s"); err != nil {
		return err
	}
	timer := time.NewTimer(1500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Scene) timeRestore(ctx context.Context, client *Peer, service string, w *Swap, run *report.Swap) error {
	ended := time.Now()
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	original := s.await(ctx, client, service, PodName)
	defer original.cancel()
	err := <-closed
	run.Restored = milliseconds(time.Since(ended))
	_, run.Undos = stepsOfLines(w.Process.Stderr().All())
	back := <-original.result
	run.Back = milliseconds(back.At.Sub(ended))
	back.countLosses(run, "at its end")
	return errors.Join(err, back.err, w.Process.Wait(ctx), s.WaitAvailable(ctx, w.target))
}

type awaited struct {
	load.Awaited
	err error
}

func (a awaited) countLosses(run *report.Swap, phase string) {
	if a.Failed == 0 {
		return
	}
	run.Lost += a.Failed
	run.Losses = append(run.Losses, fmt.Sprintf("%s (%d of %d): %s", phase, a.Failed, a.Asked, a.FirstError))
}

type awaiting struct {
	result <-chan awaited
	cancel context.CancelFunc
}

// await asks for the name of whoever answers at an address every 10 ms until
// it is want. Its goroutine ends with the answer or by cancel.
func (s *Scene) await(ctx context.Context, client *Peer, address, want string) awaiting {
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan awaited, 1)
	go func() {
		a, err := client.Do(ctx, remote.Request{
			Kind: remote.AwaitName, Address: address, Name: want,
			Interval: 10 * time.Millisecond, Duration: 2 * swapPatience,
		})
		if err != nil {
			result <- awaited{err: fmt.Errorf("await an answer of %q: %w", want, err)}
			return
		}
		result <- awaited{Awaited: *a.Awaited}
	}()
	return awaiting{result, cancel}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
