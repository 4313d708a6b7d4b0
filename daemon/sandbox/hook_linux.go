package sandbox

import (
	"fmt"
	"os"
	"syscall"
)

// startHook begins one hook: there is one at a time. It is called on the thread that started the command, whose end the
// hook's process does not outlive either.
func (s *supervisor) startHook(h *Hook) {
	if len(h.Argv) == 0 {
		go func() { s.hookDone <- Request(h) }() // ends with the request, or with the sandbox
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := s.forkHook(h.Argv)
	if err != nil {
		s.hookDone <- err
		return
	}
	s.hook = pid
	s.awaitLocked()
}

// forkHook starts a hook's command. What it writes goes where the command's errors go: the command's output is its own.
func (s *supervisor) forkHook(argv []string) (int, error) {
	path, err := lookPath(argv[0], s.spec.Env)
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir: s.spec.Dir, Env: s.spec.Env, Files: []uintptr{null.Fd(), 2, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return pid, nil
}

// wasHook tells whether the process that ended was the hook.
func (s *supervisor) wasHook(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hook != pid {
		return false
	}
	s.hook = 0
	return true
}

func (s *supervisor) reportHook(err error) {
	r := Report{HookEnded: true}
	if err != nil {
		r.HookError = err.Error()
	}
	_ = s.ctl.Send(r)
}

// exitError is how a process ended; nil: well.
func exitError(status syscall.WaitStatus) error {
	switch {
	case status.Signaled():
		return fmt.Errorf("it was ended by signal %d (%s)", int(status.Signal()), status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("it ended with status %d", status.ExitStatus())
	}
	return nil
}
