package session

import "fmt"

// State is where a session stands; the diagram is in the package comment.
type State int

// The states.
const (
	Starting State = iota
	Active
	Restoring
	Stuck
	Ended
)

func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Active:
		return "active"
	case Restoring:
		return "restoring"
	case Stuck:
		return "stuck"
	case Ended:
		return "ended"
	}
	return fmt.Sprintf("state %d", int(s))
}

// mayBecome is the diagram.
func (s State) mayBecome(next State) bool {
	switch s {
	case Starting:
		return next == Active || next == Restoring
	case Active:
		return next == Restoring
	case Restoring:
		return next == Stuck || next == Ended
	case Stuck:
		return next == Restoring || next == Ended
	case Ended:
		return false
	}
	return false
}
