package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Entry is a file as the process sees it. What differs from machine to machine
// without anybody's doing (times, inode numbers, the owner's number) is left out.
type Entry struct {
	Path string `json:"path"`           // relative to where the walk began
	Mode string `json:"mode"`           // as ls writes it
	Link string `json:"link,omitempty"` // where a symbolic link leads
	Size int64  `json:"size"`           // of a regular file
	Sum  string `json:"sum,omitempty"`  // length and SHA-256 of a regular file's content
}

// serveWalk lists a tree.
func serveWalk(w http.ResponseWriter, r *http.Request) {
	root := r.FormValue("path")
	entries := []Entry{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		e := Entry{Path: rel, Mode: info.Mode().String()}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if e.Link, err = os.Readlink(path); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Size, e.Sum = info.Size(), sumOf(bytes.NewReader(content))
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	reply(w, entries)
}

// serveFileOp does one thing with a file and tells how it ended: write (n bytes, or the given
// text), append, mkdir, remove, rename, link, chmod, stat, list (the number of names).
func serveFileOp(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	path, text := r.FormValue("path"), r.FormValue("text")
	var err error
	var body string
	switch op := r.FormValue("op"); op {
	case "write", "append":
		body, err = writeFile(path, op == "append", content(r))
	case "sum":
		body, err = sumFile(path)
	case "mkdir":
		err = os.MkdirAll(path, 0o755)
	case "remove":
		err = os.RemoveAll(path)
	case "rename":
		err = os.Rename(path, text)
	case "link":
		err = os.Symlink(text, path)
	case "chmod":
		var mode uint64
		if mode, err = strconv.ParseUint(text, 8, 12); err == nil {
			err = os.Chmod(path, fs.FileMode(mode))
		}
	case "stat":
		var info fs.FileInfo
		if info, err = os.Lstat(path); err == nil {
			body = fmt.Sprintf("%s %d", info.Mode(), info.Size())
		}
	case "list":
		var names []os.DirEntry
		if names, err = os.ReadDir(path); err == nil {
			body = strconv.Itoa(len(names))
		}
	case "fill":
		err = fill(path, text)
	default:
		http.Error(w, "op "+op+" is not known", http.StatusBadRequest)
		return
	}
	o := outcome(start, err)
	o.Body = body
	reply(w, o)
}

func content(r *http.Request) io.Reader {
	if n, err := strconv.ParseInt(r.FormValue("n"), 10, 64); err == nil {
		return pattern(n)
	}
	return strings.NewReader(r.FormValue("text"))
}

// writeFile writes and syncs; it returns the sum of what it wrote.
func writeFile(path string, add bool, from io.Reader) (string, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if add {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return "", err
	}
	sum := sumOf(io.TeeReader(from, f))
	return sum, errors.Join(f.Sync(), f.Close())
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	return sumOf(f), nil
}

// fill makes a folder with that many empty files.
func fill(path, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(path, fmt.Sprintf("file-%06d", i)), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// watches are the inotify watches that tests have asked for, by path.
type watches struct {
	mu     sync.Mutex
	events map[string][]string
}

// serveWatch begins to note what happens in a folder, or says what has happened since.
func (p *probe) serveWatch(w http.ResponseWriter, r *http.Request) {
	path := r.FormValue("path")
	p.watches.mu.Lock()
	defer p.watches.mu.Unlock()
	if events, ok := p.watches.events[path]; ok {
		reply(w, events)
		return
	}
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err == nil {
		_, err = syscall.InotifyAddWatch(fd, path, syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_MOVED_FROM|syscall.IN_DELETE|syscall.IN_CLOSE_WRITE)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if p.watches.events == nil {
		p.watches.events = map[string][]string{}
	}
	p.watches.events[path] = []string{}
	go p.watches.follow(os.NewFile(uintptr(fd), "inotify"), path)
	reply(w, []string{})
}

// follow ends with the process.
func (ws *watches) follow(f *os.File, path string) {
	names := map[uint32]string{
		syscall.IN_CREATE: "create", syscall.IN_MOVED_TO: "moved-to", syscall.IN_MOVED_FROM: "moved-from",
		syscall.IN_DELETE: "delete", syscall.IN_CLOSE_WRITE: "close-write",
	}
	buf := make([]byte, 64*1024)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for at := 0; at+syscall.SizeofInotifyEvent <= n; {
			event := (*syscall.InotifyEvent)(unsafe.Pointer(&buf[at]))
			name := buf[at+syscall.SizeofInotifyEvent : at+syscall.SizeofInotifyEvent+int(event.Len)]
			at += syscall.SizeofInotifyEvent + int(event.Len)
			what := names[event.Mask&^syscall.IN_ISDIR]
			ws.mu.Lock()
			ws.events[path] = append(ws.events[path], what+" "+string(bytes.TrimRight(name, "\x00")))
			ws.mu.Unlock()
		}
	}
}

// serveTorn reads two files of a folder that the kubelet keeps, again and again, for as
// long as asked, and tells how often they were of two different versions. Both are read by
// way of one resolution of ..data, as a program does that opens the folder.
func serveTorn(w http.ResponseWriter, r *http.Request) {
	dir := r.FormValue("path")
	end := time.Now().Add(patience(r))
	reads, torn := 0, 0
	versions := map[string]bool{}
	for time.Now().Before(end) && len(versions) < 2 {
		data, err := os.Readlink(filepath.Join(dir, "..data"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		a, errA := os.ReadFile(filepath.Join(dir, data, r.FormValue("a")))
		b, errB := os.ReadFile(filepath.Join(dir, data, r.FormValue("b")))
		if errA != nil || errB != nil {
			continue // this version has just gone
		}
		reads++
		if !bytes.Equal(a, b) {
			torn++
		}
		versions[string(a)] = true
	}
	reply(w, map[string]int{"reads": reads, "torn": torn, "versions": len(versions)})
}
