package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/teleswap/teleswap/agentimage"
	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

// checkKernel looks for what a sandbox is made of.
func (e *Examination) checkKernel() {
	features := sandbox.Features()
	if len(features) == 0 {
		e.note("sandbox", "there are none on "+runtime.GOOS+": a process has this machine's own network, and reaches the cluster by a proxy",
			"see \"Without a sandbox\" in the user guide")
	}
	e.boxes = len(features) > 0
	for _, f := range features {
		if f.Err != nil {
			e.boxes = e.boxes && f.Name == sandbox.FUSE // which only some volumes need
			e.fail(f.Name, f.Err)
			continue
		}
		e.ok(f.Name, "here, and open to you")
	}
}

func (e *Examination) checkImage() {
	const check = "agent image"
	asked := e.cfg.Image + "; whether the nodes can have it only a pull tells (see the round trip)"
	agents, err := agentimage.Carried()
	if err != nil {
		e.note(check, asked+"; this teleswap carries no agent of its own to bring there", "`make build` builds one that does, for `teleswap image load` and `push`")
		return
	}
	e.ok(check, fmt.Sprintf("%s; carried for %s, so `teleswap image load` and `push` can bring it there", asked, strings.Join(agents.Platforms(), ", ")))
}

// checkDaemon asks the daemon, if one runs, who it is and which sessions it has. It starts none.
func (e *Examination) checkDaemon(ctx context.Context) {
	const check = "daemon"
	if _, err := os.Lstat(e.cfg.Paths.Dir); errors.Is(err, fs.ErrNotExist) {
		e.ok(check, "does not run; it starts when it is needed")
		return
	}
	if err := e.cfg.Paths.Secure(); err != nil {
		e.fail(check, err)
		return
	}
	c, err := api.Dial(ctx, e.cfg.Paths.Socket)
	switch {
	case errors.Is(err, api.ErrNotRunning):
		e.ok(check, "does not run; it starts when it is needed")
		return
	case err != nil:
		e.fail(check, err)
		return
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	v, err := c.Version(ctx, &api.VersionRequest{})
	if err != nil {
		e.not(check, "it runs, but does not answer: "+api.Text(err), "its log: "+e.cfg.Paths.Log)
		return
	}
	st, err := c.Status(ctx, &api.StatusRequest{})
	if err != nil {
		e.not(check, "it does not tell its sessions: "+api.Text(err), "its log: "+e.cfg.Paths.Log)
		return
	}
	e.serves = true
	var stuck []string
	for _, s := range st.GetSessions() {
		e.sessions[s.GetId()] = true
		if s.GetState() == "stuck" {
			stuck = append(stuck, fmt.Sprintf("%s (%s): %s", s.GetId(), s.GetTarget(), s.GetProblem()))
		}
	}
	runs := fmt.Sprintf("%s runs, pid %d, %d sessions", v.GetVersion(), v.GetPid(), len(st.GetSessions()))
	other := v.GetVersion() != e.cfg.Version || v.GetBuild() != e.cfg.Build
	switch {
	case len(stuck) > 0:
		e.not(check, runs+"; not restored yet: "+oneLine(strings.Join(stuck, "\n")), "it tries again until it is; `teleswap status` says how that goes")
	case other && len(st.GetSessions()) > 0:
		e.not(check, runs+"; it is another build than this program", "`teleswap quit` ends it and its sessions; the next command starts this one's")
	case other:
		e.ok(check, runs+"; another build than this program, it is replaced by the next command")
	default:
		e.ok(check, runs)
	}
}

// checkLeftovers looks for what sessions have left that nobody ends any more, on this machine and in the namespace.
func (e *Examination) checkLeftovers(ctx context.Context) {
	const check = "leftovers"
	found := e.checkMarks(ctx)
	if e.cfg.HostDir != "" && warden.LeftBehind(e.cfg.HostDir) {
		found = true
		e.not(check, "this machine's network is as a killed connect has left it: its record is in "+e.cfg.HostDir,
			"every teleswap command puts it back, as root: run one at a terminal, or `sudo teleswap "+warden.Arg+"`")
	}
	dir := filepath.Join(e.cfg.StateDir, "sessions")
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if !found {
			e.ok(check, "none")
		}
		return
	}
	book, err := ledger.Open(dir)
	if err != nil {
		e.not(check, "the ledger cannot be read: "+err.Error(), "check who owns "+dir)
		return
	}
	records, err := book.Records()
	if err != nil {
		found = true
		e.not(check, oneLine(err.Error()), "the record says what to undo by hand; remove it when that is done: "+dir)
	}
	for _, r := range records {
		if e.serves { // it took over all that there was when it started
			break
		}
		found = true
		e.not(check, fmt.Sprintf("session %s (%s in namespace %s) of %s was left by a daemon that died", r.Session, r.Target, r.Namespace,
			r.Created.Local().Format("2006-01-02 15:04")), "`teleswap status` starts a daemon, which restores it")
	}
	if !found {
		e.ok(check, "none")
	}
}
