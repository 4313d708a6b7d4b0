//go:build !linux

package sandbox

// Feature is something of this machine's kernel that a sandbox is made of, and what is wrong with it.
type Feature struct {
	Name string
	Err  error
}

// FUSE is the name of the one feature that sandboxes do without.
const FUSE = "FUSE"

// Features are none: there are no sandboxes on this system.
func Features() []Feature { return nil }
