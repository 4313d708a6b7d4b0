package changes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMatches(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"cmd/app", "web", "node_modules/x", "gen"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "go.mod"), "")
	for _, c := range []struct {
		pattern, file string
		want          bool
	}{
		{".", "main.go", true},
		{".", "cmd/app/main.go", true},
		{".", "main.go~", false},
		{".", ".main.go.swp", false},
		{".", ".env", true},
		{"*.go", "cmd/app/main.go", true},
		{"*.go", "main.html", false},
		{"cmd", "cmd/app/main.go", true},
		{"cmd", "main.go", false},
		{"cmd/*.go", "cmd/x.go", true},
		{"cmd/*.go", "cmd/app/x.go", false},
		{"cmd/**/*.go", "cmd/app/x.go", true},
		{"cmd/**/*.go", "cmd/x.go", true},
		{"cmd/**", "cmd/app/x.go", true},
		{"go.mod", "go.mod", true},
		{"go.mod", "go.sum", false},
		{"node_modules/x", "node_modules/x/index.js", true},
		{"./web/*.js", "web/a.js", true},
	} {
		p, err := parse(dir, c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		w := &Watcher{patterns: []pattern{p}}
		if got := w.matches(filepath.Join(dir, c.file)); got != c.want {
			t.Errorf("%s, %s: got %v", c.pattern, c.file, got)
		}
	}
	for text, want := range map[string]string{"": "names nothing", "nope": "not there", "[a": "bracket", "nope/*.go": "no folder"} {
		if _, err := parse(dir, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestWatch changes files as editors and tools do.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"sub", ".git", "node_modules"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, at("main.go"), "1")
	w, err := Watch(t.Context(), dir, nil)
	if errors.Is(err, syscall.EMFILE) {
		t.Skip("this user's other programs have all watchers that the system grants: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	step := func(what, want string, do func()) {
		t.Helper()
		do()
		select {
		case got := <-w.Bursts():
			if !slices.Contains(got, at(want)) {
				t.Errorf("%s: got %v, want %s", what, got, want)
			}
		case err := <-w.Errors():
			t.Errorf("%s: %v", what, err)
		case <-time.After(15 * time.Second):
			t.Fatalf("%s: nothing within 15 s", what)
		}
	}
	step("written", "main.go", func() { write(t, at("main.go"), "2") })
	step("replaced by a rename", "main.go", func() {
		write(t, at(".main.go.swp"), "3")
		if err := os.Rename(at(".main.go.swp"), at("main.go")); err != nil {
			t.Fatal(err)
		}
	})
	step("in a folder", "sub/a.go", func() { write(t, at("sub/a.go"), "") })
	step("in a new folder", "new/deep/b.go", func() {
		if err := os.MkdirAll(at("new/deep"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, at("new/deep/b.go"), "")
	})
	step("in it again", "new/deep/b.go", func() { write(t, at("new/deep/b.go"), "2") })
	step("removed", "sub/a.go", func() {
		if err := os.Remove(at("sub/a.go")); err != nil {
			t.Fatal(err)
		}
	})
	// What does not count goes first: it would have been told with or before what does.
	step("only what counts", "main.go", func() {
		write(t, at(".git/index"), "")
		write(t, at("node_modules/x.js"), "")
		if err := os.Chmod(at("main.go"), 0o600); err != nil {
			t.Fatal(err)
		}
		write(t, at("main.go"), "4")
	})
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
