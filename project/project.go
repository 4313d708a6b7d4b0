// Package project reads a project file, .teleswap.yaml: sessions that are started together. It knows what the file
// says and where it says it, and how that is written as a line of `teleswap swap`; it knows no
// cluster, and starts nothing.
package project

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Name is the project file's.
const Name = ".teleswap.yaml"

// File is a project file that was read.
type File struct {
	Path     string
	Sessions []Session // in the file's order
}

// Session is one swap of a project.
type Session struct {
	Name    string
	Target  Target
	New     bool   // the target is made for the session
	Context string // empty: the current one
	// Namespace is the target's; empty: the context's.
	Namespace string

	Dir     string // absolute
	Command []string
	Image   string
	Docker  []string // docker run's flags

	Expose, Publish, ToPod, FromPod []string

	Env                             []string // KEY=VALUE, or KEY: as it is on this machine
	EnvFile, EnvInclude, EnvExclude []string
	EnvJSON                         string

	Node, Order                         string
	SkipInit, LifecycleHooks, NoPodLogs bool
	AgentImage, AgentPullPolicy         string
	Mount                               string // empty: as if it were true
	NoSandbox                           bool
	Flags                               []string // of `teleswap swap`

	file  string
	at    Position            // of its name
	where map[string]Position // of its values, by key
}

// Target is the workload that a session swaps.
type Target struct {
	Text string // as it is written
	// Kind is the workload's, by its one name; empty where none is said.
	Kind string
	Name string
}

// Rules are what the words in a file must be like; they are those of the command line.
type Rules struct {
	// Target reads [KIND/]NAME[:CONTAINER], New NAME[:CONTAINER] of what is to be made.
	Target, New func(text string) (Target, error)
	// Expose, Publish and Port read what the flags of the same names take. They return what can be had once only; empty: as
	// often as one likes.
	Expose, Publish, Port func(text string) (key string, err error)
}

// Find looks for a project file in a folder and those above it. Error: fs.ErrNotExist, when there is none.
func Find(dir string) (string, error) {
	for at := dir; ; {
		path := filepath.Join(at, Name)
		info, err := os.Stat(path)
		switch {
		case err == nil && !info.IsDir():
			return path, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return "", fmt.Errorf("look for %s: %w", Name, err)
		}
		up := filepath.Dir(at)
		if up == at {
			return "", fmt.Errorf("there is no %s in %s or above it: %w", Name, dir, os.ErrNotExist)
		}
		at = up
	}
}

// Read reads the file at a path. Errors: Problems, and those of the file system.
func Read(path string, rules Rules) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, rules)
}

// Parse reads a project file's content; path is where it is from, and should be absolute, as sessions' folders are relative to its own. Error:
// Problems, every one that is found.
func Parse(path string, data []byte, rules Rules) (*File, error) {
	schema, err := compiled()
	if err != nil {
		return nil, err
	}
	root, found := readTree(data)
	if len(found) > 0 {
		return nil, in(path, found)
	}
	if root == nil {
		return nil, in(path, []Problem{{At: Position{1, 1}, Text: "the file is empty; `teleswap init` writes an example"}})
	}
	if found = hold(schema.file, root); len(found) > 0 {
		return nil, in(path, found)
	}
	file := &File{Path: path}
	for _, f := range root.field("sessions").value.fields {
		s, wrong := decode(f.name, f.at, f.value, filepath.Dir(path), rules)
		found = append(append(found, wrong...), s.contradictions(f.value)...)
		s.file = path
		for _, top := range []struct {
			key  string
			into *string
		}{{"context", &s.Context}, {"namespace", &s.Namespace}} {
			if of := root.field(top.key); of != nil && *top.into == "" {
				*top.into = of.value.text
			}
		}
		file.Sessions = append(file.Sessions, s)
	}
	if err := in(path, found); err != nil {
		return nil, err
	}
	return file, PublishedTwice(file.Sessions, rules)
}

// decoders read the keys of a session that are no ports, by name. dir is the folder of the file.
var decoders = map[string]func(s *Session, n *node, dir string){
	"context":           func(s *Session, n *node, _ string) { s.Context = n.text },
	"namespace":         func(s *Session, n *node, _ string) { s.Namespace = n.text },
	"command":           func(s *Session, n *node, _ string) { s.Command = commandOf(n) },
	"image":             func(s *Session, n *node, _ string) { s.Image = n.text },
	"docker":            func(s *Session, n *node, _ string) { s.Docker = append(s.Docker, words(n)...) },
	"env":               func(s *Session, n *node, _ string) { s.Env = variables(n) },
	"env-file":          func(s *Session, n *node, _ string) { s.EnvFile = words(n) },
	"env-include":       func(s *Session, n *node, _ string) { s.EnvInclude = words(n) },
	"env-exclude":       func(s *Session, n *node, _ string) { s.EnvExclude = words(n) },
	"env-json":          func(s *Session, n *node, _ string) { s.EnvJSON = n.text },
	"node":              func(s *Session, n *node, _ string) { s.Node = n.text },
	"order":             func(s *Session, n *node, _ string) { s.Order = n.text },
	"skip-init":         func(s *Session, n *node, _ string) { s.SkipInit = n.value == true },
	"lifecycle-hooks":   func(s *Session, n *node, _ string) { s.LifecycleHooks = n.value == true },
	"no-pod-logs":       func(s *Session, n *node, _ string) { s.NoPodLogs = n.value == true },
	"mount":             func(s *Session, n *node, _ string) { s.Mount = n.text },
	"no-sandbox":        func(s *Session, n *node, _ string) { s.NoSandbox = n.value == true },
	"agent-image":       func(s *Session, n *node, _ string) { s.AgentImage = n.text },
	"agent-pull-policy": func(s *Session, n *node, _ string) { s.AgentPullPolicy = n.text },
	"flags":             func(s *Session, n *node, _ string) { s.Flags = words(n) },
	"target":            func(s *Session, n *node, _ string) { s.Target.Text = n.text },
	"new":               func(s *Session, n *node, _ string) { s.Target.Text, s.New = n.text, true },
	"dir":               func(s *Session, n *node, dir string) { s.Dir = below(dir, n.text) },
	"volumes": func(s *Session, n *node, _ string) {
		for _, v := range words(n) {
			s.Docker = append(s.Docker, "--volume="+v)
		}
	},
}

// portKeys are the keys of a session that are ports.
var portKeys = map[string]struct {
	into func(*Session) *[]string
	rule func(Rules) func(string) (string, error)
}{
	"expose":   {func(s *Session) *[]string { return &s.Expose }, func(r Rules) func(string) (string, error) { return r.Expose }},
	"publish":  {func(s *Session) *[]string { return &s.Publish }, func(r Rules) func(string) (string, error) { return r.Publish }},
	"to-pod":   {func(s *Session) *[]string { return &s.ToPod }, func(r Rules) func(string) (string, error) { return r.Port }},
	"from-pod": {func(s *Session) *[]string { return &s.FromPod }, func(r Rules) func(string) (string, error) { return r.Port }},
}

// decode makes a session of a mapping that the schema has found good. dir is the folder that its own is relative to.
func decode(name string, at Position, n *node, dir string, rules Rules) (Session, []Problem) {
	s := Session{Name: name, Dir: dir, at: at, where: map[string]Position{}}
	var found []Problem
	for _, f := range n.fields {
		s.where[f.name] = f.value.at
		if read := decoders[f.name]; read != nil {
			read(&s, f.value, dir)
			continue
		}
		key, ok := portKeys[f.name]
		if !ok {
			continue // the schema knows it; a test sees to it that this never happens
		}
		texts, wrong := ports(f, key.rule(rules))
		*key.into(&s) = texts
		found = append(found, wrong...)
	}
	s.resolve()
	read := rules.Target
	if s.New {
		read = rules.New
	}
	target, err := read(s.Target.Text)
	if err != nil {
		found = append(found, Problem{At: s.targetAt(), Text: err.Error()})
	}
	s.Target = target
	return s, found
}

// resolve makes paths of a session absolute, its folder being known now.
func (s *Session) resolve() {
	for i, path := range s.EnvFile {
		s.EnvFile[i] = below(s.Dir, path)
	}
	if s.EnvJSON != "" {
		s.EnvJSON = below(s.Dir, s.EnvJSON)
	}
	for i, flag := range s.Docker {
		if source, is := strings.CutPrefix(flag, "--volume=."); is {
			path, rest, _ := strings.Cut("."+source, ":")
			s.Docker[i] = "--volume=" + below(s.Dir, path) + ":" + rest
		}
	}
}

func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// targetAt is where the file says what the session stands for.
func (s *Session) targetAt() Position {
	if s.New {
		return s.where["new"]
	}
	return s.where["target"]
}

// contradictions are keys that do not go together.
func (s *Session) contradictions(n *node) []Problem {
	var found []Problem
	wrong := func(key, format string, args ...any) {
		at := s.at
		if key != "" {
			at = s.where[key]
		}
		found = append(found, Problem{At: at, Text: s.Name + ": " + fmt.Sprintf(format, args...)})
	}
	for _, key := range []string{"node", "order", "skip-init", "lifecycle-hooks"} {
		if s.New && n.field(key) != nil {
			wrong(key, "%s is for what is swapped, and what new makes has nothing of the kind; leave it out", key)
		}
	}
	if s.Image == "" {
		for _, key := range []string{"docker", "volumes"} {
			if n.field(key) != nil {
				wrong(key, "%s is for a container, and there is no image; name one, or leave %s out", key, key)
			}
		}
		if len(s.Command) == 0 && len(s.Expose) == 0 && !slices.Contains(s.Flags, "--hold") {
			wrong("", "there is no command and no image, so nothing would stand in the target's place; add one, "+
				"or expose, for a process that you start yourself (or flags: [--hold], where no port is to be exposed)")
		}
		if len(s.Command) > 0 && s.Command[0] == "" {
			wrong("command", "the command's first word is empty; it names the program")
		}
		return found
	}
	if f := n.field("command"); f != nil && f.value.kind == yaml.ScalarNode {
		wrong("command", "with image the command is the container's arguments, which no shell takes apart; write a list")
	}
	return found
}

// commandOf is a list as it is, and a text as the shell's.
func commandOf(n *node) []string {
	switch {
	case n.kind == yaml.SequenceNode:
		return words(n)
	case runtime.GOOS == "windows":
		return []string{"cmd", "/C", n.text}
	}
	return []string{"/bin/sh", "-c", n.text}
}

// words are a list's, or one.
func words(n *node) []string {
	if n.kind != yaml.SequenceNode {
		return []string{n.text}
	}
	all := make([]string, len(n.items))
	for i, item := range n.items {
		all[i] = item.text
	}
	return all
}

// variables are values as they are written, so that 1.10 stays 1.10; null takes this machine's.
func variables(n *node) []string {
	all := make([]string, len(n.fields))
	for i, f := range n.fields {
		all[i] = f.name
		if f.value.value != nil {
			all[i] += "=" + f.value.text
		}
	}
	return all
}

// ports are a key's, each as the command line would take it and none twice.
func ports(f field, rule func(string) (string, error)) ([]string, []Problem) {
	texts, seen := words(f.value), map[string]bool{}
	var found []Problem
	for i, text := range texts {
		at := f.value.items[i].at
		key, err := rule(text)
		switch {
		case err != nil:
			found = append(found, Problem{At: at, Text: fmt.Sprintf("%s: %v", f.name, err)})
		case seen[key]:
			found = append(found, Problem{At: at, Text: fmt.Sprintf("%s: %s is given twice; leave one of them out", f.name, key)})
		}
		seen[key] = seen[key] || key != "" && err == nil
	}
	return texts, found
}

// PublishedTwice finds ports of this machine that two sessions want. Error: Problems.
func PublishedTwice(sessions []Session, rules Rules) error {
	first := map[string]string{}
	var found Problems
	for _, s := range sessions {
		for _, text := range s.Publish {
			key, err := rules.Publish(text)
			if err != nil || key == "" {
				continue
			}
			before, taken := first[key]
			if !taken {
				first[key] = s.Name
			} else if before != s.Name {
				found = append(found, s.Wrong("publish", "session %s publishes %s already; take another port of this machine", before, key))
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

// Wrong is a problem with a session's key, at its place; at that of the session where it has no such key.
func (s Session) Wrong(key, format string, args ...any) Problem {
	at, ok := s.where[key]
	if !ok {
		at = s.at
	}
	return Problem{s.file, at, s.Name + ": " + key + ": " + fmt.Sprintf(format, args...)}
}

// Pick are the sessions of these names; all without names. Error: a name that there is not, or twice.
func (f *File) Pick(names []string, near func(word string, names []string) string) ([]Session, error) {
	if len(names) == 0 {
		return f.Sessions, nil
	}
	known := make([]string, len(f.Sessions))
	for i, s := range f.Sessions {
		known[i] = s.Name
	}
	var picked []Session
	for i, name := range names {
		at := slices.Index(known, name)
		switch {
		case slices.Contains(names[:i], name):
			return nil, fmt.Errorf("session %q is named twice; name it once", name)
		case at < 0:
			hint := near(name, known)
			if hint == "" {
				hint = "; it has " + strings.Join(known, ", ")
			}
			return nil, fmt.Errorf("%s has no session %q%s", f.Path, name, hint)
		}
		picked = append(picked, f.Sessions[at])
	}
	return picked, nil
}
