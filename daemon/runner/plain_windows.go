package runner

import (
	"fmt"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/windows"
)

// group is a job object: what the command starts belongs to it, and ends when the job does, or when we die.
type group struct {
	job windows.Handle
}

// newGroup makes the job. KILL_ON_JOB_CLOSE: the system closes our handle when we die.
func newGroup(*exec.Cmd, bool) (*group, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make a job for the command: %w", err)
	}
	var info windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	info.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err != nil {
		_ = windows.CloseHandle(job)
		return nil, fmt.Errorf("make a job for the command: %w", err)
	}
	return &group{job: job}, nil
}

// started puts the command into the job. What it has started until then, in its first moment, is not in it.
func (g *group) started(p *os.Process) error {
	h, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(p.Pid))
	if err != nil {
		return fmt.Errorf("put the command into its job: %w", err)
	}
	defer func() { _ = windows.CloseHandle(h) }()
	if err := windows.AssignProcessToJobObject(g.job, h); err != nil {
		return fmt.Errorf("put the command into its job: %w", err)
	}
	return nil
}

// signal ends the job for SIGTERM and SIGKILL: Windows has no signals to ask with. Ctrl-C the console has sent to the command,
// as to all that share it.
func (g *group) signal(sig os.Signal) error {
	if sig == os.Interrupt {
		return nil
	}
	return windows.TerminateJobObject(g.job, 1)
}

// end ends what is left of the job once the command has ended.
func (g *group) end() {
	_ = windows.TerminateJobObject(g.job, 1)
	g.close()
}

func (g *group) close() { _ = windows.CloseHandle(g.job) }

// exitOf is how a process ended.
func exitOf(st *os.ProcessState) Exit { return Exit{Code: st.ExitCode()} }
