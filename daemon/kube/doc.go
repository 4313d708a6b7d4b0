// Package kube is the laptop's only way to the Kubernetes API: it finds a swap's
// target, says beforehand what would stand in the way, makes and unmakes the
// objects of a swap, waits on them by watches, and opens raw connections to the
// agent pod through the API server.
//
// It knows no sessions, no ledger and no tunnel: each method is one effect or one
// wait, and each undo may be repeated. What the agent's objects look like is
// decided in package manifests.
package kube
