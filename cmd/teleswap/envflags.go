package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/podview"
)

// envFlags are the flags that say what the process's environment is.
type envFlags struct {
	set, files, include, exclude []string
	json, write                  string
}

func (e *envFlags) add(f *pflag.FlagSet) {
	f.StringArrayVarP(&e.set, "env", "e", nil, "set a `KEY=VALUE` of the process, over everything else; KEY alone: as it is here (repeatable)")
	f.StringArrayVar(&e.files, "env-file", nil, "set the variables of `FILE`, a KEY=VALUE a line as docker has it; --env holds over it (repeatable)")
	f.StringArrayVar(&e.include, "env-include", nil, "take only the pod's variables that match `GLOB` (repeatable)")
	f.StringArrayVar(&e.exclude, "env-exclude", nil, "leave the pod's variables that match `GLOB` out; holds over --env-include (repeatable)")
	f.StringVar(&e.json, "env-json", "", "write what the process has from the pod, --env-file and --env to `FILE`, a JSON object, mode 0600")
	f.StringVar(&e.write, "env-write", "", "write the same to `FILE` as docker's --env-file takes it, a KEY=VALUE a line, mode 0600")
}

// environment is a checked wish for the process's environment.
type environment struct {
	podview.EnvOptions
	json, lines string   // paths of the files to write; empty: none
	old         []string // set below the pod's, for programs of the old tool's users
}

// check reads the files and refuses what is wrong, before anything is changed.
func (e *envFlags) check(lookup func(string) (string, bool)) (environment, error) {
	wish := environment{EnvOptions: podview.EnvOptions{Include: e.include, Exclude: e.exclude, One: longestVariable}}
	if err := podview.CheckGlobs(e.include); err != nil {
		return wish, usage("--env-include: %v", err)
	}
	if err := podview.CheckGlobs(e.exclude); err != nil {
		return wish, usage("--env-exclude: %v", err)
	}
	for _, path := range e.files {
		set, err := readEnvFile(path, lookup)
		if err != nil {
			return wish, usage("--env-file %s: %v", path, err)
		}
		wish.Set = append(wish.Set, set...)
	}
	for _, text := range e.set {
		kv, ok, err := podview.ParseEnv(text, lookup)
		if err != nil {
			return wish, usage("--env: %v; it is written KEY=VALUE", err)
		}
		if ok {
			wish.Set = append(wish.Set, kv)
		}
	}
	var err error
	if wish.json, err = checkOutput("--env-json", e.json); err != nil {
		return wish, err
	}
	wish.lines, err = checkOutput("--env-write", e.write)
	return wish, err
}

func readEnvFile(path string, lookup func(string) (string, bool)) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer closeQuietly(f)
	set, err := podview.ParseEnvFile(f, lookup)
	return set, withoutPath(err)
}

// withoutPath is an error about a file whose name is said already.
func withoutPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// checkOutput finds out what can be found out before there is anything to write.
func checkOutput(flag, path string) (string, error) {
	switch path {
	case "":
		return "", nil
	case "-":
		return "", usage("%s -: standard output is the process's own; name a file", flag)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	if info, err := os.Stat(abs); err == nil && info.IsDir() {
		return "", usage("%s %s: it is a directory; name a file in it", flag, path)
	}
	if info, err := os.Stat(filepath.Dir(abs)); err != nil || !info.IsDir() {
		return "", usage("%s %s: there is no directory %s", flag, path, filepath.Dir(abs))
	}
	return abs, nil
}

// plan is the process's environment. warn is told what it will not see.
func (e environment) plan(local, pod, command []string, warn func(format string, args ...any)) ([]string, error) {
	plan := podview.Plan(local, slices.Concat(e.old, pod), e.EnvOptions)
	if err := e.writeJSON(plan.Pod, warn); err != nil {
		return nil, err
	}
	if err := e.writeLines(plan.Pod, warn); err != nil {
		return nil, err
	}
	if len(plan.Left) > 0 {
		warn("the process does not get %s: the kernel takes %d KiB of a variable, and there is more%s",
			strings.Join(plan.Left, ", "), (longestVariable+1)>>10, e.elsewhere())
	}
	return plan.All, podview.Fits(command, plan.All, allVariables())
}

// elsewhere says where a variable that is too long can be read.
func (e environment) elsewhere() string {
	if e.json == "" {
		return " (--env-json FILE writes it to a file)"
	}
	return "; it is in " + e.json
}

// writeJSON writes the variables to the file of --env-json.
func (e environment) writeJSON(env []string, warn func(format string, args ...any)) error {
	if e.json == "" {
		return nil
	}
	data, mangled, err := podview.EnvJSON(env)
	if err != nil {
		return fmt.Errorf("encode the environment: %w", err)
	}
	if err := writeSecrets(e.json, data); err != nil {
		return err
	}
	if len(mangled) > 0 {
		warn("%s has bytes that are no UTF-8, which JSON cannot hold: in %s they are U+FFFD", strings.Join(mangled, ", "), e.json)
	}
	return nil
}

// writeLines writes the variables to the file of --env-write.
func (e environment) writeLines(env []string, warn func(format string, args ...any)) error {
	if e.lines == "" {
		return nil
	}
	data, left := podview.EnvLines(env)
	if err := writeSecrets(e.lines, data); err != nil {
		return err
	}
	if len(left) > 0 {
		warn("%s has no line for %s: a value of several lines cannot stand there (--env-json has it)", e.lines, strings.Join(left, ", "))
	}
	return nil
}

// writeSecrets writes a file that only its owner may read.
func writeSecrets(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, secretMode)
	if err != nil {
		return fmt.Errorf("write the environment: %w", err)
	}
	// A file that was there before may have been open to others.
	if info, statErr := f.Stat(); statErr == nil && info.Mode().IsRegular() {
		err = f.Chmod(secretMode)
	}
	if err == nil {
		_, err = f.Write(data)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the environment: %w", err)
	}
	return nil
}

// secretMode is that of files with Secrets' values in them: for their owner alone.
const secretMode = 0o600
