package agent

import (
	"net/http"
	"sync"
	"time"
)

// readyPatience is how long a readiness probe is held before it is answered 503: below
// the probe's timeout of 10 s.
const readyPatience = 8 * time.Second

// readiness answers the kubelet's probes. While not ready, a probe is held until the
// moment that readiness comes: so the pod becomes Ready at once, not a probe's
// period later. But a probe that finds readiness lost is answered at once.
type readiness struct {
	patience time.Duration

	mu       sync.Mutex
	ready    bool
	ending   bool          // the pod ends: never ready again
	answered bool          // what the last probe was told
	changed  chan struct{} // closed and replaced with each change
}

func newReadiness() *readiness {
	return &readiness{patience: readyPatience, changed: make(chan struct{})}
}

// set changes readiness.
func (r *readiness) set(ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = ready
	r.tell()
}

// end makes it not ready for good: the pod shuts down.
func (r *readiness) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
	r.tell()
}

// tell wakes the held probes; the caller holds the lock.
func (r *readiness) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// look returns the state, and what to wait for; hold says whether waiting is of use.
func (r *readiness) look() (ready, hold bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready = r.ready && !r.ending
	return ready, !ready && !r.ending && !r.answered, r.changed
}

func (r *readiness) note(answer bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered = answer
}

func (r *readiness) serveReady(w http.ResponseWriter, req *http.Request) {
	timer := time.NewTimer(r.patience)
	defer timer.Stop()
	ready, hold, changed := r.look()
	for over := false; hold && !over; {
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-req.Context().Done():
			return
		}
		ready, hold, changed = r.look()
	}
	r.note(ready)
	if !ready {
		http.Error(w, "the local process does not listen", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// handler serves /readyz and /healthz.
func (r *readiness) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", r.serveReady)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}
