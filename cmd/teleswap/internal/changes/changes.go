// Package changes tells when files change below some folders, once they have been quiet for a moment. It knows files only,
// neither what is made of them nor for whom.
package changes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing may change before it is told: editors and `git checkout` write many files.
	quiet = 100 * time.Millisecond
	// longest is how long a change waits at most where it is never quiet.
	longest = 2 * time.Second
	// maxNames is how many names are told of one burst.
	maxNames = 16
)

// Watcher follows folders and all below them, also those that are made later. Close it.
type Watcher struct {
	fs       *fsnotify.Watcher
	patterns []pattern
	bursts   chan []string
	errs     chan error
	stop     context.CancelFunc
	done     chan struct{}
}

// Watch begins to follow what the patterns name, seen from the folder dir; none: all in it. A pattern is a file, a folder, or has the
// wildcards of path.Match, and ** for any folders between; without a slash it holds for names in all folders. Folders that are
// hidden (.git), of packages (node_modules, vendor) or of caches (__pycache__) count only where a pattern begins in them,
// editors' own files never. The error says what to do where the system does not let us watch so many.
func Watch(ctx context.Context, dir string, patterns []string) (*Watcher, error) {
	if len(patterns) == 0 {
		patterns = []string{"."}
	}
	w := &Watcher{bursts: make(chan []string), errs: make(chan error, 1), done: make(chan struct{})}
	for _, text := range patterns {
		p, err := parse(dir, text)
		if err != nil {
			return nil, err
		}
		if real, err := filepath.EvalSymlinks(p.root); err == nil { // a folder that is a link has no events of its own
			p.root = real
		}
		w.patterns = append(w.patterns, p)
	}
	var err error
	if w.fs, err = fsnotify.NewWatcher(); err != nil {
		return nil, explain(err, "")
	}
	for _, p := range w.patterns {
		if _, err := w.follow(p.root, true); err != nil {
			return nil, errors.Join(err, w.fs.Close())
		}
	}
	ctx, w.stop = context.WithCancel(ctx)
	go w.loop(ctx) // ends with Close or ctx
	return w, nil
}

// Bursts has the files of each burst of changes, a few of them, by paths as they were watched. What changes while nobody
// receives is told with the next. A nil Watcher has none.
func (w *Watcher) Bursts() <-chan []string {
	if w == nil {
		return nil
	}
	return w.bursts
}

// Errors has why something cannot be watched (any more).
func (w *Watcher) Errors() <-chan error {
	if w == nil {
		return nil
	}
	return w.errs
}

// Close ends watching. It may be called on nil.
func (w *Watcher) Close() error {
	if w == nil {
		return nil
	}
	w.stop()
	<-w.done
	return w.fs.Close()
}

// follow watches a folder, or the folder of a file, and all below it; found are the files in them.
func (w *Watcher) follow(root string, asked bool) (found []string, err error) {
	st, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, explain(w.fs.Add(filepath.Dir(root)), root)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path == root && asked:
			return err
		case err != nil: // it went while we looked, or is not ours to read
			return fs.SkipDir
		case !d.IsDir():
			found = append(found, path)
			return nil
		case skipped(d.Name()) && (path != root || !asked):
			return fs.SkipDir
		}
		err = w.fs.Add(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && path != root {
			return fs.SkipDir
		}
		return explain(err, root)
	})
	return found, err
}

// explain says what to do where the system has not enough watches (inotify(7)).
func explain(err error, root string) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("there are more folders in %s than this machine lets you watch: sudo sysctl -w fs.inotify.max_user_watches=1048576, "+
			"or name fewer: --watch='cmd/**/*.go' (%w)", root, err)
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("this machine lets you have no more watchers at once: sudo sysctl -w fs.inotify.max_user_instances=1024 (%w)", err)
	case err != nil:
		return fmt.Errorf("watch %s: %w", root, err)
	}
	return nil
}

// loop collects changes and tells them.
func (w *Watcher) loop(ctx context.Context) {
	defer close(w.done)
	var burst []string
	var began time.Time
	calm := time.NewTimer(time.Hour)
	calm.Stop()
	defer calm.Stop()
	var out chan []string // w.bursts when the burst is over
	for {
		select {
		case e := <-w.fs.Events:
			names := w.changed(e)
			if len(names) == 0 {
				continue
			}
			if len(burst) == 0 {
				began = time.Now()
			}
			burst, out = add(burst, names), nil
			calm.Reset(min(quiet, max(time.Until(began.Add(longest)), 0)))
		case err := <-w.fs.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) { // something has changed, whatever it was
				burst, out = add(burst, []string{w.patterns[0].root}), w.bursts
				continue
			}
			w.tell(explain(err, w.patterns[0].root))
		case <-calm.C:
			out = w.bursts
		case out <- burst:
			burst, out = nil, nil
		case <-ctx.Done():
			return
		}
	}
}

func add(burst, names []string) []string {
	for _, name := range names {
		if len(burst) < maxNames && !slices.Contains(burst, name) {
			burst = append(burst, name)
		}
	}
	return burst
}

// tell keeps an error for who asks.
func (w *Watcher) tell(err error) {
	for {
		select {
		case w.errs <- err:
			return
		default:
		}
		select {
		case older := <-w.errs:
			err = errors.Join(older, err)
		default:
		}
	}
}

// changed are the files that an event means. New folders are followed; what is in them already may have had no event.
func (w *Watcher) changed(e fsnotify.Event) []string {
	if e.Op == fsnotify.Chmod {
		return nil
	}
	names := []string{e.Name}
	if st, err := os.Lstat(e.Name); err == nil && st.IsDir() {
		if !e.Has(fsnotify.Create) || skipped(st.Name()) {
			return nil
		}
		found, err := w.follow(e.Name, false)
		if err != nil {
			w.tell(err)
		}
		names = found
	}
	return slices.DeleteFunc(names, func(name string) bool { return !w.matches(name) })
}

// matches tells whether a file counts.
func (w *Watcher) matches(file string) bool {
	return !editors(filepath.Base(file)) && slices.ContainsFunc(w.patterns, func(p pattern) bool { return p.matches(file) })
}

// skipped are the folders that hold what is not the user's own work.
func skipped(name string) bool {
	return strings.HasPrefix(name, ".") && name != "." && name != ".." ||
		slices.Contains([]string{"node_modules", "bower_components", "vendor", "__pycache__", "venv"}, name)
}

// editors are files that vi, Emacs and others keep for themselves beside the one that is edited.
func editors(name string) bool {
	return strings.HasSuffix(name, "~") || strings.HasPrefix(name, ".#") || strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#") ||
		slices.Contains([]string{".swp", ".swx", ".swo"}, filepath.Ext(name)) || name == "4913" || strings.HasSuffix(name, "___jb_tmp___")
}
