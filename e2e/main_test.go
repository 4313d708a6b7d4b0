package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// stage is the lab of this run, or the reason why there is none. TestMain sets it
// before any test runs.
var stage struct {
	lab     *scene.Lab
	missing string
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if f := flag.Lookup("test.list"); f != nil && f.Value.String() != "" {
		return m.Run()
	}
	if stage.missing = scene.Missing(); testing.Short() {
		stage.missing = "the e2e tests are not short: run without -short"
	}
	if stage.missing != "" {
		fmt.Fprintln(os.Stderr, "e2e: all tests are skipped:", stage.missing)
		return m.Run()
	}
	if err := setParallel(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lab, err := scene.Open(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: set the stage:", err)
		return 1
	}
	defer lab.Close()
	stage.lab = lab
	return m.Run()
}

// setParallel allows more tests at a time than there are processors, because they mostly wait; unless
// the user has said how many.
func setParallel() error {
	const atOnce = "4"
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if said {
		return nil
	}
	return flag.Set("test.parallel", atOnce)
}

// parallel makes the test parallel, or skips it where there is no lab.
func parallel(t *testing.T) {
	t.Helper()
	if stage.lab == nil {
		t.Skip(stage.missing)
	}
	t.Parallel()
}

// newWorld makes the test parallel and gives it a world, or skips it.
func newWorld(t *testing.T) *scene.World {
	t.Helper()
	parallel(t)
	return stage.lab.NewWorld(t)
}

// asBoth runs a test in two worlds: one of an ordinary user of the laptop, one of its root.
func asBoth(t *testing.T, f func(t *testing.T, w *scene.World)) {
	t.Helper()
	parallel(t)
	t.Run("user", func(t *testing.T) {
		t.Parallel()
		f(t, stage.lab.NewWorld(t))
	})
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("needs root: sudo make e2e")
		}
		f(t, stage.lab.NewRootWorld(t))
	})
}
