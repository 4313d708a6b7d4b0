package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/teleswap/teleswap/project"
)

// projectRules are the command line's own, for the words of a project file.
func projectRules() project.Rules {
	target := func(parse func(string) (targetName, error)) func(string) (project.Target, error) {
		return func(text string) (project.Target, error) {
			t, err := parse(text)
			return project.Target{Text: text, Kind: t.kind, Name: t.name}, err
		}
	}
	return project.Rules{
		Target: target(parseTarget),
		New:    target(parseNew),
		Expose: func(text string) (string, error) {
			e, err := parseExpose(text)
			return "the target's port " + portNumber{e.remote, e.udp}.String(), withText(text, err)
		},
		Publish: func(text string) (string, error) {
			p, err := parsePublish(text)
			if p.port == 0 {
				return "", withText(text, err)
			}
			return "this machine's " + netip.AddrPortFrom(p.addr, p.port).String() + udpSuffix(p.udp), withText(text, err)
		},
		Port: func(text string) (string, error) {
			p, err := parseNumber(text)
			return "port " + p.String(), withText(text, err)
		},
	}
}

func withText(text string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", text, err)
}

// projectPath is the file that was named, or else the one that is found upwards from the working folder. Absolute.
func projectPath(named string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	if named != "" {
		return filepath.Abs(named)
	}
	path, err := project.Find(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", usage("%v\n`teleswap init` writes one from a Deployment", strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error()))
	}
	return path, err
}

// readProject reads a project file, and checks all that can be checked without the cluster.
func (a *app) readProject(path string) (*project.File, error) {
	file, err := project.Read(path, projectRules())
	var noFile *fs.PathError
	if errors.As(err, &noFile) {
		return nil, usage("%s: %v; `teleswap init` writes a project file", path, noFile.Err)
	}
	if err != nil {
		return nil, wrongFile(err)
	}
	return file, nil
}

// wrongFile makes what is wrong with a file a wrong usage, the file's lines first, as editors and terminals want them.
func wrongFile(err error) error {
	var problems project.Problems
	if errors.As(err, &problems) {
		return usage("%s", problems)
	}
	return err
}

// place completes where a session's target is, from the command line's flags and the kubeconfig. The flags hold over the file.
func (k *kubeFlags) place(p project.Place) project.Place {
	name, namespace := *k.flags.Context, *k.flags.Namespace
	p.Context, p.Namespace = cmp.Or(name, p.Context), cmp.Or(namespace, p.Namespace)
	cfg, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return p // the swap will say so
	}
	p.Context = cmp.Or(p.Context, cfg.CurrentContext)
	if c := cfg.Contexts[p.Context]; c != nil {
		p.Namespace = cmp.Or(p.Namespace, c.Namespace)
	}
	p.Namespace = cmp.Or(p.Namespace, "default")
	return p
}
