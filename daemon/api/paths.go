package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Paths are where the daemon and its clients meet.
type Paths struct {
	Dir     string // the runtime directory, mode 0700
	Socket  string // of this API
	Handoff string // of the sandboxes' hand-over
	Warden  string // where root's part of a connection of this machine comes
	Log     string // the daemon's log
	Lock    string // held by the daemon, holds its pid
	Start   string // held by a client while it starts the daemon
}

// PathsIn are the paths in a runtime directory.
func PathsIn(dir string) Paths {
	return Paths{
		Dir:     dir,
		Socket:  filepath.Join(dir, "daemon.sock"),
		Handoff: filepath.Join(dir, "handoff.sock"),
		Warden:  filepath.Join(dir, "host.sock"),
		Log:     filepath.Join(dir, "daemon.log"),
		Lock:    filepath.Join(dir, "daemon.pid"),
		Start:   filepath.Join(dir, "start.lock"),
	}
}

// Door is where a session's sandbox takes further commands.
func (p Paths) Door(session string) string { return filepath.Join(p.Dir, session+".door") }

// RuntimeDir is the runtime directory of a user: $TELESWAP_RUNTIME_DIR, else teleswap
// in $XDG_RUNTIME_DIR, else a directory of the user's in tempDir.
func RuntimeDir(getenv func(string) string, tempDir string, uid int) string {
	if dir := getenv("TELESWAP_RUNTIME_DIR"); dir != "" {
		return dir
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "teleswap")
	}
	return filepath.Join(tempDir, "teleswap-"+strconv.Itoa(uid))
}

// StateDir is where the ledger lives: $XDG_STATE_HOME/teleswap, else
// .local/state/teleswap below home.
func StateDir(getenv func(string) string, home string) string {
	if dir := getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "teleswap")
	}
	return filepath.Join(home, ".local", "state", "teleswap")
}

// Secure makes the runtime directory, or checks the one that is there: a directory,
// no symlink, owned by this user and closed to all others. In a directory that anyone
// may write to (/tmp) somebody else could have made it first.
func (p Paths) Secure() error {
	err := os.Mkdir(p.Dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		// The parent is missing; a runtime directory set by hand may be new altogether.
		err = os.MkdirAll(p.Dir, 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the runtime directory: %w", err)
	}
	info, err := os.Lstat(p.Dir)
	if err != nil {
		return fmt.Errorf("check the runtime directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("runtime directory %s is not a directory (%s)\n"+
			"remove it, or name another one in TELESWAP_RUNTIME_DIR", p.Dir, info.Mode().Type())
	}
	if err := checkOwner(p.Dir, info); err != nil {
		return err
	}
	// Longer names than this do not fit into a socket's address.
	if len(p.Handoff) > maxSocketPath {
		return fmt.Errorf("runtime directory %s: the name is too long for a unix socket (%d bytes, at most %d)\n"+
			"name a shorter one in TELESWAP_RUNTIME_DIR", p.Dir, len(p.Handoff), maxSocketPath)
	}
	return nil
}

// maxSocketPath is sizeof(sun_path)-1 of the smallest system (macOS: 104).
const maxSocketPath = 103
