//go:build !linux

package runner

import "os"

// plumbing is not here: there is no sandbox to run a command in.
type plumbing struct {
	in, out, err *os.File
	terminal     *terminal
}

type terminal struct{ keys chan os.Signal }

func (t *terminal) stopped(int) {}
func (t *terminal) turned(int)  {}

func ownTerminal(Stdio) bool { return false }

func plumb(s Stdio) (*plumbing, error) { return &plumbing{in: s.In, out: s.Out, err: s.Err}, nil }

func (p *plumbing) held() ([]*os.File, error) { return nil, nil }
func (p *plumbing) started(int, func())       {}
func (p *plumbing) finish()                   {}
func (p *plumbing) abandon()                  {}
