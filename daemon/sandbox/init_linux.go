package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// statusFailed is the first process's exit status where the command was never started.
const statusFailed = 1

// Init is the first process of a sandbox: it sets the namespaces up, hands the device over, runs the command and ends
// all that the command left behind. It returns the exit status for the program. It expects to be the only thing
// that the program does.
func Init() int {
	// Capabilities belong to threads, and the command inherits those of the thread that starts it.
	runtime.LockOSThread()
	unix.CloseOnExec(ControlFD)
	ctl, err := NewControl(os.NewFile(ControlFD, "control"))
	if err != nil {
		return statusFailed
	}
	defer func() { _ = ctl.Close() }()
	order, seen := attend(ctl)
	if order.Spec == nil {
		return statusFailed
	}
	orders := make(chan Order)
	go readOrders(ctl, orders) // ends with the process: the control socket outlives everything here
	held := heldFiles(order.Spec.Held)
	door, err := listenDoor(order.Spec.Door) // the laptop's paths hold until the pod's files are laid over them
	if err != nil {
		return refuse(ctl, err)
	}
	if door != nil {
		defer func() { _ = door.Close() }()
	}
	child, err := prepare(order.Spec, orders)
	if err != nil {
		return refuse(ctl, err)
	}
	_ = ctl.Send(Report{Started: child})
	s := newSupervisor(order.Spec, child, ctl, orders, seen, held)
	s.openDoor(door)
	return s.run()
}

// attend has the signals seen that a terminal sends, as they are the command's and not to end us, and waits for the first order. Without
// one the order is empty.
func attend(ctl *Control) (first Order, seen <-chan os.Signal) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if err := ctl.Receive(&first); err != nil {
		return Order{}, signals
	}
	return first, signals
}

// refuse says why the command was never started.
func refuse(ctl *Control, why error) (status int) {
	_ = ctl.Send(Report{Failed: why.Error()})
	return statusFailed
}

// readOrders passes orders on until the CLI is gone, and closes the channel then.
func readOrders(ctl *Control, orders chan<- Order) {
	defer close(orders)
	for {
		var o Order
		if err := ctl.Receive(&o); err != nil {
			return
		}
		orders <- o
	}
}

// prepare does everything up to the start of the command, and returns its process id; our own where there is none.
func prepare(spec *Spec, orders <-chan Order) (int, error) {
	// Orphans of the command become ours, so that none outlives it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become the sandbox's reaper: %w", err)
	}
	if spec.Plain {
		return startCommand(spec)
	}
	tun, err := setUpNetwork(spec)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tun.Close() }()
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return 0, fmt.Errorf("set the sandbox's hostname: %w", err)
		}
	}
	laid, err := setUpFiles(spec)
	if err != nil {
		return 0, err
	}
	vols := makeVolumes(laid, spec)
	defer vols.close()
	ctx, giveUp := context.WithCancel(context.Background()) //nolint:forbidigo // the root of a process of its own
	defer giveUp()
	var (
		sockets *factory
		failed  error
	)
	over := make(chan struct{})
	go func() {
		defer close(over)
		sockets, failed = handOver(ctx, spec, tun, vols)
	}()
	select {
	case <-over:
		if failed != nil {
			return 0, failed
		}
	case _, ok := <-orders:
		giveUp()
		<-over // it uses the device
		if !ok {
			return 0, errors.New("the CLI is gone")
		}
		return 0, errors.New("interrupted before the command started")
	}
	vols.close()
	if err := vols.finish(); err != nil {
		return 0, err
	}
	laid.release()
	if err := repeatRoot(spec.Root); err != nil {
		return 0, err
	}
	if err := sockets.start(); err != nil {
		return 0, err
	}
	if err := dropPrivileges(); err != nil {
		return 0, err
	}
	return startCommand(spec)
}

// repeatRoot shows all that is at / below a directory, too.
func repeatRoot(at string) error {
	if at == "" {
		return nil
	}
	if err := unix.Mount("/", at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show the files of / below %s: %w", at, err)
	}
	return nil
}

// startCommand starts the user's command, if there is one, as our child, on our thread. It dies with us if we are killed.
func startCommand(spec *Spec) (int, error) {
	if len(spec.Argv) == 0 {
		return os.Getpid(), nil
	}
	path, err := lookPath(spec.Argv[0], spec.Env)
	if err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(path, spec.Argv, &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: []uintptr{0, 1, 2},
		// A group of its own, whose parent is in its session: so the terminal can stop it (setpgid(2), orphaned groups).
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: spec.Terminal, Foreground: spec.Terminal},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	return pid, nil
}

// lookPath finds a command as execvp(3) does, in the PATH of env.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if dir == "" {
			file = "./" + name
		}
		if st, err := os.Stat(file); err == nil && !st.IsDir() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: command not found in PATH", name)
}
