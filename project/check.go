package project

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Place is where a session's target is: a context and a namespace, by name.
type Place struct{ Context, Namespace string }

// Clashes finds sessions that swap the same workload. place completes what a session leaves open, from the kubeconfig. Error: Problems.
func Clashes(sessions []Session, place func(Place) Place) error {
	type key struct {
		Place
		name string
	}
	seen := map[key][]Session{}
	var found Problems
	for _, s := range sessions {
		k := key{place(Place{s.Context, s.Namespace}), s.Target.Name}
		same := slices.IndexFunc(seen[k], func(o Session) bool {
			return o.Target.Kind == s.Target.Kind || o.Target.Kind == "" || s.Target.Kind == ""
		})
		if same < 0 {
			seen[k] = append(seen[k], s)
			continue
		}
		where := ""
		if k.Namespace != "" {
			where = " in namespace " + k.Namespace
		}
		found = append(found, Problem{s.file, s.targetAt(), fmt.Sprintf(
			"%s swaps %s%s, and so does session %s; a workload can be swapped once at a time: leave one out, or name another namespace or context",
			s.Name, s.Target.Text, where, seen[k][same].Name)})
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

// Ready finds what is missing on this machine: folders, files, programs. Error: Problems.
func Ready(sessions []Session) error {
	var found Problems
	for _, s := range sessions {
		wrong := func(key, format string, args ...any) {
			at, ok := s.where[key]
			if !ok {
				at = s.at
			}
			found = append(found, Problem{s.file, at, s.Name + ": " + fmt.Sprintf(format, args...)})
		}
		if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
			wrong("dir", "there is no folder %s; dir is relative to the file's own", s.Dir)
			continue
		}
		for _, path := range s.EnvFile {
			if err := readable(path); err != nil {
				wrong("env-file", "env-file %s: %v", path, err)
			}
		}
		if s.EnvJSON != "" {
			if info, err := os.Stat(filepath.Dir(s.EnvJSON)); err != nil || !info.IsDir() {
				wrong("env-json", "env-json: there is no folder %s; make it first", filepath.Dir(s.EnvJSON))
			}
		}
		if s.Image == "" && len(s.Command) > 0 {
			if err := findProgram(s.Dir, s.Command[0]); err != nil {
				wrong("command", "the command cannot be run: %v; check its spelling and your PATH", err)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			return p.Err
		}
		return err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a folder")
	}
	return errors.Join(err, f.Close())
}

// findProgram looks for a program as a shell in the folder would.
func findProgram(dir, name string) error {
	if strings.ContainsRune(name, filepath.Separator) && !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	_, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		return nil
	}
	var e *exec.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Name, e.Err)
	}
	return err
}
