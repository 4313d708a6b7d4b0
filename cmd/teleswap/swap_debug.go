package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/cmd/teleswap/internal/debugger"
	"github.com/teleswap/teleswap/daemon/api"
)

// debugFlag is the flag of swap that starts the command under a debugger.
type debugFlag struct{ port string }

func (d *debugFlag) add(f *pflag.FlagSet) {
	f.StringVar(&d.port, "debug", "", "start the command under its language's debugger and publish that at 127.0.0.1:`PORT` (--debug=PORT; alone the usual one: Go 2345,\n"+
		"node 9229, python 5678, java 5005); what to paste into VS Code or a JetBrains IDE is printed")
	f.Lookup("debug").NoOptDefVal = "usual"
}

// planDev puts what --watch and --debug wish for into the request; attach are lines for the user.
func (o *swapOptions) planDev(req *api.SwapRequest, inContainer bool) (attach []string, err error) {
	switch {
	case inContainer && o.debug.port != "":
		return nil, usage("--debug starts commands of this machine, not containers\n" +
			"start the debugger in the container, listening on 127.0.0.1:PORT, and give --publish PORT instead")
	case inContainer && o.watch.on():
		return nil, usage("--watch starts commands of this machine again, not containers\n" +
			"let a tool in the container do that, with docker's -v showing it your files")
	}
	if req.GetNoSandbox() && o.watch.on() {
		return nil, usage("--watch starts the command again in its sandbox, and there is none; leave --no-sandbox or --watch away")
	}
	req.Watch = o.watch.on()
	return o.debug.plan(req, &o.ports)
}

// plan changes the request's command and the ports to publish; attach are the lines for the user.
func (d debugFlag) plan(req *api.SwapRequest, ports *portFlags) (attach []string, err error) {
	if d.port == "" {
		return nil, nil
	}
	var port uint16
	if d.port != "usual" {
		if port, err = parsePort(d.port, "it is written --debug, or --debug=PORT"); err != nil {
			return nil, usage("--debug=%s: %v", d.port, err)
		}
	}
	temp := filepath.Join(os.TempDir(), fmt.Sprintf("teleswap-debug-%d", os.Getpid()))
	plan, err := debugger.Make(debugger.Request{
		Argv: req.GetCommand(), Port: port, Name: "teleswap: " + req.GetName(), Output: temp,
		Find: findTool, IsGo: isGoProgram, Try: tryCommand,
	})
	if err != nil {
		return nil, usage("--debug: %v", err)
	}
	req.Command = plan.Argv
	if !req.GetNoSandbox() { // without one the debugger is at this machine's 127.0.0.1 itself
		ports.publish = append(ports.publish, strconv.Itoa(int(plan.Port)))
	}
	return plan.Attach, nil
}

// findTool finds a program in PATH, and where `go install` puts it.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	dirs := []string{os.Getenv("GOBIN")}
	for _, root := range filepath.SplitList(build.Default.GOPATH) {
		dirs = append(dirs, filepath.Join(root, "bin"))
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && dir != "" {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// isGoProgram says whether a command is a program that Go's linker has made.
func isGoProgram(name string) bool {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return false
	}
	_, err = buildinfo.ReadFile(path)
	return err == nil
}

// tryCommand runs a command for its exit status alone.
func tryCommand(argv ...string) bool {
	return exec.Command(argv[0], argv[1:]...).Run() == nil //nolint:noctx // it imports a module, and ends
}
