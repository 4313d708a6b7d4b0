package runner

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childArg is the first argument with which the test binary plays the user's command.
const childArg = "__child"

func TestMain(m *testing.M) {
	// Otherwise each process of the race detector lingers for a second.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case InitArg:
			os.Exit(InitMain(os.Args[2:]))
		case cliArg:
			os.Exit(cliMain())
		case childArg:
			os.Exit(childMain(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}
