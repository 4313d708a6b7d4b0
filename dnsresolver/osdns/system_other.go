//go:build !linux

package osdns

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
)

// Look sees what there is to choose by: outside Linux the system is all.
func Look(context.Context) (Seen, error) { return Seen{}, nil }

// ChooseHere is the way of this system.
func ChooseHere(Seen) (Choice, error) {
	if runtime.GOOS == "windows" {
		return Choice{Way: NRPT, Why: "Windows"}, nil
	}
	return Choice{Way: ResolverFiles, Why: "macOS"}, nil
}

// System is this machine. All but ReadFile needs an administrator.
func System() Effects {
	return Effects{
		Path: "/etc/resolv.conf", ReadFile: os.ReadFile, Remove: os.Remove, Run: run,
		WriteFile: func(path string, content []byte) error {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			return writeFile(path, content)
		},
	}
}
