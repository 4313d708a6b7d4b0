package main

import (
	"errors"
	"os"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/runner"
)

// hooks are the container's lifecycle hooks that are to run; nil fields do not.
type hooks struct{ postStart, preStop *api.Hook }

// hookResult is how a hook ended.
type hookResult struct {
	postStart bool
	err       error
}

// leastAfterHook is what a process has after SIGTERM when its preStop hook has used the grace up, as the kubelet gives it.
const leastAfterHook = 2 * time.Second

// wantedHooks are those of the pod that were asked for. Those that were not are said, once.
func (s *swapping) wantedHooks(p *api.Prepare) hooks {
	all := hooks{p.GetPostStart(), p.GetPreStop()}
	if s.wishes.hooks {
		return all
	}
	switch {
	case all.postStart != nil && all.preStop != nil:
		s.ui.line("· the container's postStart and preStop hooks are not run; --lifecycle-hooks runs them")
	case all.postStart != nil:
		s.ui.line("· the container's postStart hook is not run; --lifecycle-hooks runs it")
	case all.preStop != nil:
		s.ui.line("· the container's preStop hook is not run; --lifecycle-hooks runs it")
	}
	return hooks{}
}

// runHook runs one beside the process; hooked gets the result. The goroutine ends with the hook or the process.
func (c *child) runHook(h *api.Hook, postStart bool) {
	p := c.process
	go func() {
		result := hookResult{postStart: postStart}
		if d := time.Duration(h.GetSleepMilliseconds()) * time.Millisecond; d > 0 {
			sleep := time.NewTimer(d)
			defer sleep.Stop()
			select {
			case <-sleep.C:
			case <-p.Done():
			}
		} else {
			result.err = p.RunHook(runner.Hook{Argv: h.GetCommand(), URL: h.GetHttpGet().GetUrl(), Headers: h.GetHttpGet().GetHeaders()})
		}
		c.hooked <- result
	}()
}

// hookEnded goes on where a hook was waited for.
func (s *swapping) hookEnded(r hookResult) {
	if errors.Is(r.err, os.ErrProcessDone) || !s.child.running() {
		return
	}
	switch {
	case r.postStart && r.err != nil:
		s.hookErr = r.err
		s.ui.line("! the postStart hook failed: %v; the process is ended, as in the pod", r.err)
		s.send(&api.SwapUp{Message: &api.SwapUp_End{End: &api.End{Reason: "the postStart hook failed"}}})
		s.child.terminate(s.ui, 0)
	case r.postStart:
		s.tellStarted()
	default:
		if r.err != nil {
			s.ui.line("! the preStop hook failed: %v; the process is told to end all the same", r.err)
		}
		s.child.afterPreStop(s.ui)
	}
}
