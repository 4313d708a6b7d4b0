// Package session is a swap from its first step to its last undo. A session is a list
// of named steps; what a step will change is written to the ledger before it changes
// it, and restoring is the ledger read backwards. There is one restore, whoever needs
// it: the user who ends a swap, the daemon whose command died or who is told to quit,
// the next daemon, or `teleswap restore` on any machine.
//
// The state of a session (state.go keeps to this diagram):
//
//	            all steps done
//	Starting ───────────────────▶ Active
//	    │  a step failed,            │  child exited, command left or died,
//	    │  or an ending came         │  agent gone, daemon quits
//	    └────────────┬───────────────┘
//	                 ▼   undo failed     (with backoff, while the daemon lives)
//	orphan ────▶ Restoring ◀───────────▶ Stuck
//	                 │  nothing left to undo
//	                 ▼
//	               Ended
//
// An orphan is a session found in the ledger whose process has died.
//
// The package knows what a swap is. How the cluster is asked (daemon/kube), bytes are
// carried (proxy/...) and the process is started (the command's side) arrives through
// the interfaces of deps.go.
package session
