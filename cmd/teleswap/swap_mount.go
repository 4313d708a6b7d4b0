package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

// mountFlags say where the command sees the pod's volumes beside their own paths.
type mountFlags struct {
	where string
	made  string // a directory that was made for it; empty: none
}

func (m *mountFlags) add(f *pflag.FlagSet) {
	f.StringVar(&m.where, "mount", "true", "false: without the pod's volumes; a directory's absolute `PATH`: what is seen at / in the sandbox, volumes and all, is below PATH, too")
}

// put checks the flag and writes it into the request. root is below which path all is seen again; empty: below none.
func (m *mountFlags) put(req *api.SwapRequest, inContainer bool) (root string, err error) {
	volumes, root, err := m.check()
	switch {
	case err != nil:
		return "", err
	case root != "" && inContainer:
		return "", usage("--mount %s: the pod's volumes are in the container, at their own paths; docker's -v shows it other files", root)
	case root != "" && req.GetNoSandbox():
		return "", usage("--mount %s: without a sandbox the pod's files are below $TELESWAP_ROOT alone", root)
	}
	req.NoVolumes = !volumes
	return root, nil
}

// check says whether there are to be volumes, and below which path all is seen again; empty: below none.
func (m *mountFlags) check() (volumes bool, root string, err error) {
	switch m.where {
	case "true":
		return true, "", nil
	case "false":
		return false, "", nil
	}
	root = filepath.Clean(m.where)
	if !filepath.IsAbs(m.where) {
		return false, "", usage("--mount %s: it is a directory's absolute path, true or false", m.where)
	}
	if root == "/" {
		return true, "", nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return false, "", fmt.Errorf("find the working directory: %w", err)
	}
	if strings.HasPrefix(dir+"/", root+"/") {
		return false, "", usage("--mount %s: it would hide the working directory %s; choose a directory of its own", m.where, dir)
	}
	info, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(root, 0o700); err != nil {
			return false, "", usage("--mount %s: the directory cannot be made: %v", m.where, withoutPath(err))
		}
		m.made = root
	case err != nil:
		return false, "", usage("--mount %s: %v", m.where, withoutPath(err))
	case !info.IsDir():
		return false, "", usage("--mount %s: it is no directory", m.where)
	}
	return true, root, nil
}

// end removes the directory that was made, unless somebody has put something into it.
func (m *mountFlags) end() {
	if m.made != "" {
		_ = os.Remove(m.made)
	}
}
