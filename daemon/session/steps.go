package session

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/daemon/connect"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/volumes"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// swap is what the steps of one session find and make, each for those after it.
type swap struct {
	cluster  Cluster
	target   *kube.Target
	services []netip.Prefix
	entry    Entry // the ledger's; nil: nothing was changed
	mark     kube.Mark
	keys     *tunnel.Keys
	agent    kube.Agent
	pod      kube.AgentPod
	link     Link
	lease    *connect.Lease // of a connect
	using    bool           // its Use has begun
	unwatch  func()         // ends what the lease tells
	view     *tunnel.PodView
	prepared bool         // the owner was told to start its child
	mounts   []kube.Mount // those that the sandbox was asked to make
	box      Box
	volumes  *volumes.Volumes
	// published holds ports of the laptop; nil: none is asked for yet.
	published *publisher
	listens   listens // where the process listens
	root      string  // of the files of a process without a sandbox
	ready     bool    // the agent was told that it may be Ready
	moved     bool    // connections were handed over to the original's pods
	orphan    bool    // nothing lives of it yet: its agent may still stand
}

// step is one step forwards. Its undo is the data that it writes to the ledger.
type step struct {
	name string
	do   func(s *Session, ctx context.Context, sw *swap) (detail string, err error)
}

// beginning is how every swap begins: after it the target is known, and marked.
func beginning() []step {
	return []step{
		{"resolve", (*Session).resolve},
		{"mark", (*Session).mark},
	}
}

// rest is what follows. What is new has no originals. Mostly the originals go last, so that no request falls between two
// stools; where both cannot be, they go first.
func rest(t *kube.Target) []step {
	shift := step{"shift", (*Session).shift}
	stand := []step{
		{"agent", (*Session).standUp},
		{"dial", (*Session).dial},
		{"start", (*Session).start},
		{"ready", (*Session).becomeReady},
	}
	switch {
	case t.New:
		return stand
	case t.ScaleFirst:
		return append([]step{shift}, stand...)
	}
	return append(stand, shift)
}

// forward takes the steps in order, and stops at the first that fails.
func (s *Session) forward(ctx context.Context, sw *swap) error {
	if s.req.Connect {
		return s.take(ctx, sw, connecting(s.req))
	}
	if err := s.take(ctx, sw, beginning()); err != nil {
		return err
	}
	return s.take(ctx, sw, rest(sw.target))
}

func (s *Session) take(ctx context.Context, sw *swap, steps []step) error {
	for _, st := range steps {
		if err := s.track(st.name, false, func() (string, error) { return st.do(s, ctx, sw) }); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return nil
}

// track runs one step, times it and tells the watchers.
func (s *Session) track(name string, undo bool, do func() (string, error)) error {
	s.report(Step{Name: name, State: StepStarted, Undo: undo})
	began := s.cfg.Now()
	detail, err := do()
	done := Step{Name: name, State: StepDone, Detail: detail, Took: s.cfg.Now().Sub(began), Undo: undo}
	if err != nil {
		done.State = StepFailed
		done.Detail = s.failure(undo, err)
	}
	s.report(done)
	return err
}

// failure is a failed step's detail: the outcome will say why a step forwards failed.
func (s *Session) failure(undo bool, err error) string {
	if undo {
		return firstLine(err.Error())
	}
	select {
	case <-s.ended:
		return "interrupted"
	default:
		return ""
	}
}

func (s *Session) report(st Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.steps); n > 0 && s.steps[n-1].Name == st.Name && s.steps[n-1].Undo == st.Undo {
		s.steps[n-1] = st
	} else {
		s.steps = append(s.steps, st)
	}
	if st.State != StepStarted {
		s.log.Info("step", "name", st.Name, "undo", st.Undo, "ok", st.State == StepDone,
			"detail", st.Detail, "milliseconds", st.Took.Milliseconds())
	}
	s.emitLocked(st)
}

// resolve finds out everything that could stand in the way, and changes nothing.
func (s *Session) resolve(ctx context.Context, sw *swap) (string, error) {
	if !s.req.Plain && !s.req.InContainer { // Docker's daemon makes the namespaces of a container
		if err := s.cfg.Check(); err != nil {
			return "", err
		}
	}
	if err := s.publish(ctx, sw); err != nil {
		return "", err
	}
	cluster, err := s.cfg.Connect(s.req.Connection)
	if err != nil {
		return "", err
	}
	sw.cluster = cluster
	var wg sync.WaitGroup
	var resolveErr, accessErr, rangesErr error
	wg.Go(func() { sw.target, resolveErr = s.find(ctx, cluster) })
	wg.Go(func() { accessErr = cluster.CheckAccess(ctx, s.req.Ref.Kind) })
	wg.Go(func() { sw.services, rangesErr = cluster.ServiceCIDRs(ctx) })
	wg.Go(func() { sw.keys, err = tunnel.NewKeys(s.id, s.cfg.Now()) })
	wg.Wait()
	// The list of all missing permissions says more than the first refusal.
	var missing *kube.MissingPermissionError
	if errors.As(accessErr, &missing) {
		return "", accessErr
	}
	if err := errors.Join(firstError(resolveErr, accessErr), err); err != nil {
		return "", err
	}
	if rangesErr != nil {
		s.log.Warn("the Service ranges are unknown; private addresses go to the cluster all the same", "error", rangesErr)
	}
	if s.req.Plain && len(s.req.Command) > 0 {
		if err := s.checkPorts(sw.target); err != nil {
			return "", err
		}
	}
	s.mu.Lock()
	s.target, s.namespace, s.context = sw.target.String(), sw.target.Namespace, cluster.Context()
	s.ports = allPorts(sw.target)
	s.mu.Unlock()
	limits := sw.target.Limits(s.cfg.UID)
	if s.req.InContainer {
		limits = sw.target.ContainerLimits()
	}
	for _, n := range append(sw.target.Notes, limits...) {
		s.note("%s", n)
	}
	return fmt.Sprintf("%s in %s, %s", sw.target, sw.target.Namespace, mapsText(allPorts(sw.target))), nil
}

// find resolves the target. One that a session of this daemon is just giving back is
// waited for: a user who swaps again does not care about the last time's end.
func (s *Session) find(ctx context.Context, cluster Cluster) (*kube.Target, error) {
	for {
		target, err := cluster.Resolve(ctx, s.req.Ref)
		var swapped *kube.AlreadySwappedError
		if !errors.As(err, &swapped) {
			return target, err
		}
		restored := s.restored(swapped.Mark.ID)
		if restored == nil {
			return nil, err
		}
		s.note("waiting until session %s has given %s back", swapped.Mark.ID, swapped.Target)
		select {
		case <-restored: // asked for once: when it has ended there is nothing to wait for
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// mark says in the cluster whose the target is now. What is new comes with its mark: see CreateNew.
func (s *Session) mark(ctx context.Context, sw *swap) (string, error) {
	name := sw.target.Name
	agent := kube.AgentName(name, s.id)
	conn, err := s.cfg.Redact(s.req.Connection, sw.cluster, sw.target.Namespace)
	if err != nil {
		return "", fmt.Errorf("write the connection to the ledger: %w", err)
	}
	undo, err := undoStep(undoMark, markUndo{Kind: sw.target.Kind, Name: name})
	if sw.target.New {
		undo, err = undoStep(undoNew, newUndo{Name: name, Agent: agent})
	}
	if err != nil {
		return "", err
	}
	sw.entry, err = s.cfg.Ledger.Begin(ledger.Record{
		Session: s.id, Created: s.cfg.Now(), Target: sw.target.String(), Namespace: sw.target.Namespace,
		Context: sw.cluster.Context(), Connection: conn, Steps: []ledger.Step{undo},
	})
	if err != nil {
		return "", err
	}
	sw.mark = kube.Mark{
		ID: s.id, User: s.cfg.User, Host: s.cfg.Host, Since: s.cfg.Now().UTC().Truncate(time.Second),
		Replicas: sw.target.Replicas, Agent: agent, ScaleFirst: sw.target.ScaleFirst,
	}
	if !sw.target.New {
		sw.mark, err = sw.cluster.Mark(ctx, sw.target, sw.mark)
	}
	if err != nil {
		return "", err
	}
	return "as " + s.id, nil
}

// standUp puts the agent beside the target's pods.
func (s *Session) standUp(ctx context.Context, sw *swap) (string, error) {
	sw.agent = kube.Agent{
		Session: s.id, Name: kube.AgentName(sw.target.Name, s.id),
		Image: s.req.Image, PullPolicy: s.req.PullPolicy, Keys: sw.keys.AgentFiles(),
	}
	create := s.createBeside
	if sw.target.New {
		create = s.createNew
	}
	if err := create(ctx, sw); err != nil {
		return "", err
	}
	s.mu.Lock()
	s.agentPod = sw.pod.Name
	s.mu.Unlock()
	return "pod " + sw.pod.Name, nil
}

// createBeside makes the agent of a target that there is.
func (s *Session) createBeside(ctx context.Context, sw *swap) error {
	undo, err := undoStep(undoAgent, agentUndo{
		Name: sw.agent.Name, Kind: sw.target.Kind, Target: sw.target.Name, Pod: sw.target.Object().Pod,
		Available: serving(sw), Port: sw.target.TunnelPort,
	})
	if err != nil {
		return err
	}
	if err := sw.entry.Append(undo); err != nil {
		return err
	}
	if err := s.cfg.Keys.Save(s.id, sw.keys); err != nil {
		s.log.Warn("the keys are not kept for a next daemon", "error", err)
	}
	if err := sw.cluster.CreateSecret(ctx, sw.target, sw.agent); err != nil {
		return err
	}
	sw.pod, err = s.admitAgent(ctx, sw)
	return err
}

const (
	// quotaEvery and quotaPatience are for an agent whose originals have gone: the cluster
	// counts a moment later what that has freed of a quota.
	quotaEvery    = 500 * time.Millisecond
	quotaPatience = 20 * time.Second
)

// admitAgent makes the agent and waits until it runs.
func (s *Session) admitAgent(ctx context.Context, sw *swap) (pod kube.AgentPod, err error) {
	over := s.cfg.Now().Add(quotaPatience)
	for {
		err = sw.cluster.CreateAgent(ctx, sw.target, sw.agent)
		if err == nil {
			pod, err = sw.cluster.WaitAgentRunning(ctx, sw.agent.Name, s.notify())
		}
		if !sw.target.ScaleFirst || !kube.IsOverQuota(err) || s.cfg.Now().After(over) {
			return pod, err
		}
		select {
		case <-time.After(quotaEvery):
		case <-ctx.Done():
			return pod, context.Cause(ctx)
		}
	}
}

// notify passes on what is being waited for.
func (s *Session) notify() kube.Notify { return func(line string) { s.note("%s", line) } }

// dial opens the tunnel and takes the pod's view.
func (s *Session) dial(ctx context.Context, sw *swap) (detail string, err error) {
	sw.link, err = s.cfg.Dial(ctx, LinkConfig{
		Cluster: sw.cluster, Session: s.id, Agent: sw.agent.Name, Pod: sw.pod, Port: sw.target.TunnelPort,
		Image: sw.agent.Image, Keys: sw.keys, Services: sw.services, Also: s.req.Also, Maps: sw.target.Maps, ToPod: s.req.Ref.ToPod,
		Gate: s.gate, Hold: s.req.Hold, Warn: s.warn, Logger: s.log,
	})
	if err != nil {
		return "", err
	}
	link := sw.link
	s.setLink(link)
	s.meterLink(link)
	grace := sw.target.Grace()
	s.attending.Go(func() { s.endWithLink(link, grace) })
	sw.view, err = sw.link.View(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the agent for its pod: %w", err)
	}
	if err := checkPorts(s.req.Ref, sw.view.GetPorts()); err != nil {
		return "", err
	}
	s.mu.Lock()
	s.transport = sw.link.Transport()
	s.mu.Unlock()
	return "by " + sw.link.Transport(), nil
}

// start has the owner start its process, and joins its sandbox to the pod.
func (s *Session) start(ctx context.Context, sw *swap) (string, error) {
	if s.req.Plain {
		return s.startPlain(ctx, sw)
	}
	token := rand.Text()
	arrived, cancel := s.cfg.Boxes.Expect(s.id, token, s.req.InContainer)
	defer cancel()
	prefixes, err := podPrefixes(sw.view)
	if err != nil {
		return "", err
	}
	wanted := s.findMounts(ctx, sw)
	sw.prepared = true
	s.emit(Prepare{
		Token: token, Hostname: sw.view.GetHostname(), Addresses: prefixes, MTU: sandbox.DefaultMTU,
		ResolvConf: sw.view.GetResolvConf(), Hosts: sw.view.GetHosts(), Env: sw.view.GetEnv(), Hooks: sw.hooks(),
		Mounts: wanted,
	})
	select {
	case sw.box = <-arrived:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	sw.listens = sw.box
	err = sw.link.Attach(ctx, sw.box, sw.view)
	if err == nil {
		err = s.startVolumes(ctx, sw)
	}
	if err == nil {
		err = s.openPublished(sw)
	}
	if ackErr := sw.box.Ack(err); err == nil {
		err = ackErr
	}
	if err != nil {
		return "", fmt.Errorf("join the sandbox to the pod: %w", err)
	}
	return s.awaitChild(ctx)
}

// podPrefixes are the pod's addresses, each as a prefix of its own.
func podPrefixes(view *tunnel.PodView) ([]string, error) {
	prefixes := make([]string, 0, len(view.GetPodIps()))
	for _, ip := range view.GetPodIps() {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, fmt.Errorf("the agent reports a pod address that is none: %w", err)
		}
		prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()).String())
	}
	return prefixes, nil
}

// becomeReady waits until the process serves, and then until the cluster knows.
func (s *Session) becomeReady(ctx context.Context, sw *swap) (string, error) {
	need := ports(sw.target.Need, sw.target.NeedUDP)
	at := sw.listens
	if s.req.Hold {
		at = either{box: sw.listens, laptop: onLaptop(sw.target.Need), ports: need}
	}
	if err := s.awaitListening(ctx, at, need); err != nil {
		return "", err
	}
	sw.ready = true
	if err := sw.link.SetReady(ctx); err != nil {
		return "", fmt.Errorf("tell the agent that the process listens: %w", err)
	}
	pod, err := sw.cluster.WaitAgentReady(ctx, sw.agent.Name, s.notify())
	if err != nil {
		return "", err
	}
	if err := sw.cluster.WaitEndpoints(ctx, sw.target.Services, pod); err != nil {
		return "", err
	}
	if len(need) == 0 {
		return "no port to wait for", nil
	}
	return "listens on " + joinPorts(need), nil
}

// available is for how many of the originals a restore waits: those that were available, or all where there are fewer now.
func available(sw *swap) int32 {
	if sw.mark.Replicas < sw.target.Replicas {
		return min(sw.target.Available, sw.mark.Replicas)
	}
	return sw.target.Available
}

// shift takes the originals away: from here on only the local process answers.
func (s *Session) shift(ctx context.Context, sw *swap) (string, error) {
	// The process may have taken its time to listen.
	mark, err := sw.cluster.Remark(ctx, sw.target, sw.mark)
	if err != nil {
		return "", err
	}
	sw.mark = mark
	shift := sw.mark.Shift(sw.target.Object())
	undo, err := undoStep(undoShift, shiftUndo{Shift: shift, Agent: sw.mark.Agent, Available: available(sw)})
	if err != nil {
		return "", err
	}
	if err := sw.entry.Append(undo); err != nil {
		return "", err
	}
	if err := sw.cluster.Shift(ctx, shift, sw.mark.Agent); err != nil {
		return "", err
	}
	s.awaitShifted(ctx, sw, shift)
	if sw.target.ScaleFirst {
		s.awaitGone(ctx, sw)
	}
	return shift.String(), nil
}

// awaitGone waits until the originals have let go of what the agent's pod needs. Those that
// take longer than they may are not waited for: the agent's pod then waits itself.
func (s *Session) awaitGone(ctx context.Context, sw *swap) {
	ctx, cancel := context.WithTimeout(ctx, sw.target.Grace()+gonePatience)
	defer cancel()
	if err := sw.cluster.WaitGone(ctx, sw.target.Object(), nil); err != nil {
		s.log.Info("the originals are still there", "error", err)
	}
}

const (
	// shiftEvery is how often it is asked whether the originals still serve. It takes the
	// cluster's controllers some 50 ms.
	shiftEvery = 50 * time.Millisecond
	// shiftPatience bounds the wait: that the API server took the scale is enough.
	shiftPatience = 3 * time.Second
	// gonePatience is what the kubelet may take beyond a pod's grace period.
	gonePatience = 15 * time.Second
)

// awaitShifted waits until none of the originals counts as ready, so that "swapped" is
// the truth when it is said. Pods that end leave the Services' endpoints at the same
// moment.
func (s *Session) awaitShifted(ctx context.Context, sw *swap, shift kube.Shift) {
	ctx, cancel := context.WithTimeout(ctx, shiftPatience)
	defer cancel()
	tick := time.NewTicker(shiftEvery)
	defer tick.Stop()
	for {
		serving, err := sw.cluster.Serving(ctx, shift)
		if err != nil || serving == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.log.Info("the originals are still ready", "after", shiftPatience)
			return
		}
	}
}

// serving is how many pods of the target serve beside the agent: none where they went
// first, and as many as were available before otherwise. More must not be waited for.
func serving(sw *swap) int32 {
	if sw.target.ScaleFirst {
		return 0
	}
	return sw.target.Available
}

// undoStep is a ledger step with its undo as JSON.
func undoStep(name string, undo any) (ledger.Step, error) {
	data, err := json.Marshal(undo)
	if err != nil {
		return ledger.Step{}, fmt.Errorf("encode the undo of %s: %w", name, err)
	}
	return ledger.Step{Name: name, Undo: data}, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
