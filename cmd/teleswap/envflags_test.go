package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func noLaptop(string) (string, bool) { return "", false }

// collect is a warn that keeps what it is told.
func collect(lines *[]string) func(string, ...any) {
	return func(format string, args ...any) { *lines = append(*lines, fmt.Sprintf(format, args...)) }
}

func TestEnvironmentPrecedence(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	for path, text := range map[string]string{first: "A=first\nB=first\nC=first\n", second: "B=second\nC=second\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := envFlags{set: []string{"C=flag", "HERE", "NOT_HERE"}, files: []string{first, second}}
	wish, err := flags.check(func(name string) (string, bool) { return "laptop", name == "HERE" })
	if err != nil {
		t.Fatal(err)
	}
	got, err := wish.plan([]string{"D=laptop", "HERE=laptop"}, []string{"A=pod", "B=pod", "C=pod", "HERE=pod", "NOT_HERE=pod"}, []string{"x"}, t.Logf)
	slices.Sort(got)
	if want := []string{"A=first", "B=second", "C=flag", "D=laptop", "HERE=laptop", "NOT_HERE=pod"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestEnvJSONFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env.json")
	if err := os.WriteFile(path, []byte(strings.Repeat("old", 1000)), 0o644); err != nil { //nolint:gosec // it is to be made narrower
		t.Fatal(err)
	}
	flags := envFlags{json: path, set: []string{"MINE=1", "LONG=" + strings.Repeat("x", longestVariable)}}
	wish, err := flags.check(noLaptop)
	if err != nil {
		t.Fatal(err)
	}
	var warned []string
	env, err := wish.plan([]string{"LAPTOP=1"}, []string{"POD=žluť"}, []string{"x"}, collect(&warned))
	if err != nil || !slices.Equal(env, []string{"LAPTOP=1", "POD=žluť", "MINE=1"}) {
		t.Errorf("env %.99q, %v", env, err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "does not get LONG: the kernel takes 128 KiB") || !strings.Contains(warned[0], path) {
		t.Errorf("warnings %.300q", warned)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(data, &got); err != nil || len(got) != 3 || got["POD"] != "žluť" || got["MINE"] != "1" || len(got["LONG"]) != longestVariable {
		t.Errorf("file has %.200s, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != secretMode {
		t.Errorf("mode %v, %v, want %o", info.Mode(), err, secretMode)
	}
}

// TestEnvironmentTooLarge asks the kernel itself whether the limit is the right one: the child of a
// limit's size starts, and one that is refused here would not have.
func TestEnvironmentTooLarge(t *testing.T) {
	room := allVariables()
	var env []string
	for size := 0; size < room; size += 100 << 10 {
		env = append(env, fmt.Sprintf("V%d=%s", len(env), strings.Repeat("x", 100<<10)))
	}
	_, err := environment{}.plan(nil, env, []string{"x"}, t.Logf)
	if err == nil || !strings.Contains(err.Error(), "--env-exclude") {
		t.Errorf("%d variables of 100 KiB, room for %d bytes: %v", len(env), room, err)
	}
	env = env[:len(env)-2]
	if _, err := (environment{}).plan(nil, env, []string{"x"}, t.Logf); err != nil {
		t.Error(err)
	}
}
