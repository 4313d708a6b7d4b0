// Command teleswap puts a local process in the place of a workload in a Kubernetes
// cluster. Each verb has its file; what a verb does is the daemon's business.
package main

import (
	"context"
	"os"

	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/daemon/runner"
)

// version is set by the linker.
var version = "dev"

func main() {
	// The first process of a sandbox is this program again; it must not spend time on
	// anything else.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case runner.InitArg:
			os.Exit(runner.InitMain(os.Args[2:]))
		case runner.KeepArg: // so are these, in containers
			os.Exit(runner.KeepMain())
		case runner.GateArg:
			os.Exit(runner.GateMain(os.Args[2:]))
		case runner.MapArg:
			os.Exit(runner.MapMain())
		case warden.Arg: // and this is root's, when the whole machine is connected
			os.Exit(warden.Main(context.Background(), os.Args[2:], os.Stderr))
		}
	}
	os.Exit(Main())
}

// Main runs a command line with the process's own streams.
func Main() int {
	return run(context.Background(), os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
}
