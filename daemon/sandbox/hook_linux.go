package sandbox

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// startHook begins one hook: there is one at a time. It is called on the thread that started the command, whose end the
// hook's process does not outlive either.
func (s *supervisor) startHook(h *Hook) {
	if len(h.Argv) == 0 {
		go func() { s.hookDone <- request(h) }() // ends with the request, or with the sandbox
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

// request is a GET as the kubelet makes it for a hook: no certificate is checked, and any answer is good (kubelet's
// lifecycle handlers).
func request(h *Hook) error {
	req, err := http.NewRequest(http.MethodGet, h.URL, http.NoBody) //nolint:noctx // it ends with the sandbox
	if err != nil {
		return err
	}
	for _, line := range h.Headers {
		name, value, _ := strings.Cut(line, ": ")
		if strings.EqualFold(name, "Host") {
			req.Host = value
		}
		req.Header.Add(name, value)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the kubelet does, and it is our own process
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	return errors.Join(err, resp.Body.Close())
}
