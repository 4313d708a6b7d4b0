package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
)

// PodEndsError says that the agent's pod was told to end.
type PodEndsError struct{ Pod string }

func (e *PodEndsError) Error() string {
	return fmt.Sprintf("pod %s was told to end: it was deleted, or its node is being drained", e.Pod)
}

// Hooks are the lifecycle hooks of the target's container; nil: it has none.
type Hooks struct{ PostStart, PreStop *kube.Hook }

// endWithLink ends the session when its agent is lost. Where its pod was told to end the process is told so at once, and gets
// grace, as it would in the pod. It ends with the session.
func (s *Session) endWithLink(link Link, grace time.Duration) {
	select {
	case <-link.Gone():
	case <-s.ended:
		return
	}
	err := link.Err()
	if !s.end(ending{reason: "the agent is gone", err: fmt.Errorf("the agent is gone: %w", err)}) {
		return // we restore, and have deleted the pod ourselves
	}
	var podEnds *PodEndsError
	if errors.As(err, &podEnds) {
		s.emit(StopChild{Reason: podEnds.Error(), Grace: grace})
	}
}

// hooks are those of the target, whose requests go to the pod's first address.
func (sw *swap) hooks() Hooks {
	var ip string
	if ips := sw.view.GetPodIps(); len(ips) > 0 {
		ip = ips[0]
	}
	postStart, preStop := sw.target.Hooks(ip)
	return Hooks{PostStart: postStart, PreStop: preStop}
}
