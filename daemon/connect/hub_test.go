package connect

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/kube"
)

func TestLeasesShareOneAgent(t *testing.T) {
	l := newLab(t)
	h := l.hub()
	first, second := l.acquire(h), l.acquire(h)
	if got := l.history(); !slices.Equal(got, []string{"record id1", "create id1", "settle id1"}) {
		t.Errorf("two leases: %v", got)
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	<-first.Done()
	if _, err := first.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed lease dials: %v", err)
	}
	if _, err := second.LookupNetIP(t.Context(), "ip", "web"); err != nil {
		t.Errorf("the other lease ended with it: %v", err)
	}
	_ = second.Close()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if got := l.history(); !slices.Equal(got[3:], []string{"delete id1", "forget id1"}) {
		t.Errorf("at the end: %v", got)
	}
	if _, err := h.Acquire(t.Context(), Request{}, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed hub gives leases: %v", err)
	}
}

func TestLeaseReachesTheCluster(t *testing.T) {
	l := newLab(t)
	lease := l.acquire(l.hub())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = lis.Close(); <-ended })
	_, port, _ := net.SplitHostPort(lis.Addr().String())
	for _, host := range []string{"127.0.0.1", "web", "web.shop.svc.cluster.local"} {
		c, err := lease.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
			t.Errorf("%s says %q, %v", host, text, err)
		}
		_ = c.Close()
	}
	var unknown *net.DNSError
	if _, err := lease.DialContext(t.Context(), "tcp", "nobody:80"); !errors.As(err, &unknown) || !unknown.IsNotFound {
		t.Errorf("a name that is nowhere: %v", err)
	}
	if _, err := lease.DialContext(t.Context(), "tcp6", "web:80"); !errors.As(err, &unknown) {
		t.Errorf("a name without an address of the family: %v", err)
	}
	st := lease.Status()
	if st.Transport != "pod-proxy" || st.AgentPod != "pod-of-id1" || st.Down == 0 || st.Up == 0 || st.Queries == 0 || st.Problem != "" {
		t.Errorf("status %+v", st)
	}
	if took, err := lease.RoundTrip(t.Context()); err != nil || took <= 0 {
		t.Errorf("round trip %s, %v", took, err)
	}
	if s := lease.Search(); len(s) != 2 || s[0] != "shop.svc.cluster.local" || lease.Namespace() != "shop" {
		t.Errorf("search domains %v in %s", s, lease.Namespace())
	}
	// Nobody saw a pod; the agent's own address is known.
	if r := lease.Ranges(); len(r.Pods) != 1 || r.Pods[0].String() != "10.244.1.0/24" || !strings.Contains(r.How, "own address") {
		t.Errorf("ranges %+v", r)
	}
}

func TestAcquireThatFailsLeavesNothing(t *testing.T) {
	stuck := &kube.PodStuckError{Reason: "ErrImagePull"}
	for call, want := range map[string][]string{
		"CheckConnect":  nil,
		"CreateConnect": {"record id1", "delete id1", "forget id1"}, // it may have been made all the same
		"WaitConnect":   {"record id1", "create id1", "delete id1", "forget id1"},
	} {
		t.Run(call, func(t *testing.T) {
			l := newLab(t)
			l.failing(call, stuck)
			h := l.hub()
			if _, err := h.Acquire(t.Context(), Request{}, nil); !errors.Is(err, stuck) {
				t.Errorf("got %v, want what the cluster said", err)
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			if got := l.history(); !slices.Equal(got, want) {
				t.Errorf("effects %v, want %v", got, want)
			}
		})
	}
}

func TestAcquireThatIsGivenUp(t *testing.T) {
	l := newLab(t)
	l.block = make(chan struct{})
	h := l.hub()
	ctx, cancel := context.WithCancel(t.Context())
	var told []string
	_, err := h.Acquire(ctx, Request{}, func(line string) {
		told = append(told, line)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || len(told) != 1 || told[0] != "the test waits" {
		t.Errorf("%v, told %q", err, told)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if got := l.history(); !slices.Contains(got, "forget id1") {
		t.Errorf("effects %v", got)
	}
}

// TestAgentReplaced: its pod was evicted, say, and the Job has made another.
func TestAgentReplaced(t *testing.T) {
	l := newLab(t)
	lease := l.acquire(l.hub())
	_, renewed := lease.conn.current()
	told := make(chan string, 4)
	defer lease.Watch(func(line string) { told <- line })()
	end := l.replace("id1", "second-pod")
	<-renewed
	if st := lease.Status(); st.AgentPod != "second-pod" || st.Problem != "" {
		t.Errorf("status %+v", st)
	}
	if _, err := lease.LookupNetIP(t.Context(), "ip4", "web"); err != nil {
		t.Error(err)
	}
	if now := l.now(); now != "id1" {
		t.Errorf("another agent was made: %s", now)
	}
	end()
	for _, want := range []string{"was told to end", "connected again, by pod-proxy"} {
		if line := <-told; !strings.Contains(line, want) {
			t.Errorf("told %q, want %q", line, want)
		}
	}
}

// TestAgentGone: somebody deleted it, or it ended while the laptop slept. What is dialled meanwhile waits.
func TestAgentGone(t *testing.T) {
	l := newLab(t)
	lease := l.acquire(l.hub())
	now, _ := lease.conn.current()
	first, _ := now.Current()
	l.stop("id1")
	// What is asked before the tunnel's end is seen has its error.
	<-first.Done()
	if _, err := lease.LookupNetIP(t.Context(), "ip", "web"); err != nil {
		t.Error(err)
	}
	if id := l.now(); id != "id2" {
		t.Errorf("agent %q, want another", id)
	}
	if got := l.history(); !slices.Equal(got[3:], []string{"delete id1", "forget id1", "record id2", "create id2", "settle id2"}) {
		t.Errorf("effects %v", got)
	}
	select {
	case <-lease.Done():
		t.Error("the lease has ended")
	default:
	}
}

// TestAgentIsSettledLater: an agent that serves has its deadline taken away, though the first try failed, be it that of the first agent or
// of the one that mends the connection. It is not dialled again for that.
func TestAgentIsSettledLater(t *testing.T) {
	l := newLab(t)
	away := errors.New("no API server")
	l.failing("SettleConnect", away)
	lease := l.acquire(l.hub())
	l.failing("SettleConnect", nil)
	l.await("settle id1")
	l.failing("SettleConnect", away)
	_, renewed := lease.conn.current()
	l.stop("id1")
	<-renewed
	mended, renewed := lease.conn.current()
	l.await("cannot settle id2")
	l.failing("SettleConnect", nil)
	l.await("settle id2")
	select {
	case <-renewed:
		t.Error("it was dialled again")
	default:
	}
	if err := mended.Err(); err != nil {
		t.Error(err)
	}
	got := slices.DeleteFunc(l.history(), func(effect string) bool { return strings.HasPrefix(effect, "cannot") })
	if !slices.Equal(got, []string{"record id1", "create id1", "settle id1", "delete id1", "forget id1", "record id2", "create id2", "settle id2"}) {
		t.Errorf("effects %v", got)
	}
}

// TestAgentThatIsReachedLaterIsSettled: it was made, and then the network broke again.
func TestAgentThatIsReachedLaterIsSettled(t *testing.T) {
	l := newLab(t)
	lease := l.acquire(l.hub())
	_, renewed := lease.conn.current()
	l.failing("DialPodProxy", errors.New("no network"))
	l.stop("id1")
	l.await("cannot dial pod-of-id2")
	l.failing("DialPodProxy", nil)
	<-renewed
	l.await("settle id2")
}

// TestMendedTooLate: the last lease is closed while the connection is being mended. The link before is closed all the same.
func TestMendedTooLate(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l := newLab(t)
	h := l.hub()
	lease := l.acquire(h)
	slow := make(chan struct{})
	l.mu.Lock()
	l.slow = slow
	l.mu.Unlock()
	l.stop("id1")
	l.await("settle id2")
	_ = lease.Close()
	close(slow)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// TestAgentThatCannotBeTakenAway is left to who does not give up, with its record.
func TestAgentThatCannotBeTakenAway(t *testing.T) {
	l := newLab(t)
	h := l.hub()
	lease := l.acquire(h)
	l.failing("DeleteConnect", errors.New("no API server"))
	_ = lease.Close()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	got := l.history()
	if !slices.Equal(got[3:], []string{"abandon id1"}) {
		t.Errorf("effects %v", got)
	}
	l.stop("id1")
}

func TestHubEndsLeases(t *testing.T) {
	l := newLab(t)
	h := l.hub()
	lease := l.acquire(h)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	<-lease.Done()
	if lease.Err() == nil {
		t.Error("it does not say why")
	}
	if n := h.Count(); n != 0 {
		_ = lease.Close()
		if n := h.Count(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	}
}
