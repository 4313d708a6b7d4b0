package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"
)

// goTool is a program of a module, by the path of its file. It is built once for all runs, through the module proxy, with the versions
// that the module itself names.
func goTool(t *testing.T, module, version, pkg string) string {
	t.Helper()
	cache := os.Getenv("TELESWAP_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "teleswap")
	}
	built := filepath.Join(cache, "tools", path.Base(pkg)+"-"+version)
	if _, err := os.Stat(built); err == nil {
		return built
	}
	// Not `go install`, which asks for the module's newest version, too.
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module+"@"+version)
	download.Dir = t.TempDir() // of no module
	out, err := download.Output()
	var about struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &about); jsonErr != nil || about.Dir == "" {
		t.Fatalf("%s: %v, %s", download, err, about.Error)
	}
	temp := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", temp, "./"+pkg)
	build.Dir, build.Env = about.Dir, append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	program, err := os.ReadFile(temp)
	if err != nil {
		t.Fatal(err)
	}
	writeProgram(t, built, program)
	return built
}

// writeProgram replaces a program at once: other runs may be about to.
func writeProgram(t *testing.T, path string, program []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		t.Fatal(err)
	}
	_, err = temp.Write(program)
	for _, err := range []error{err, temp.Chmod(0o755), temp.Close(), os.Rename(temp.Name(), path)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}
