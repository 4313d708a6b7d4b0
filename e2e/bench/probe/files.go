package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	// bigFile is as long as the file that is moved, in bytes; block is how much a read or write of it takes.
	bigFile = 100 << 20
	block   = 128 << 10
	// randomReads are of a page each.
	randomReads, page = 1000, 4 << 10
	// many files are in one folder and, for a walk, in folders of a hundred each.
	many, perFolder = 10_000, 100
	// fresh files are made in one go.
	freshFiles = 1000
)

// files does one thing with the files in a folder and prints how many milliseconds it took. Two of the things are
// for who has no file system but a pipe: receive writes a file of what comes in, send writes one out and prints nothing.
func files(dir, what string, in io.Reader, out io.Writer) error {
	big := filepath.Join(dir, "big")
	work, known := map[string]func() error{
		"prepare": func() error { return prepareFiles(dir) },
		"write":   func() error { return writeFile(big, io.LimitReader(rand.NewChaCha8([32]byte{}), bigFile)) },
		"receive": func() error { return writeFile(big, in) },
		"read":    func() error { return readFile(big, io.Discard) },
		"random":  func() error { return readPages(big) },
		"list":    func() error { return listFolder(filepath.Join(dir, "many")) },
		"walk":    func() error { return walk(filepath.Join(dir, "tree")) },
		"create":  func() error { return createFiles(filepath.Join(dir, "fresh")) },
	}[what]
	if what == "send" {
		return readFile(big, out)
	}
	if !known {
		return fmt.Errorf("files: %q is not known", what)
	}
	if what == "create" {
		if err := os.RemoveAll(filepath.Join(dir, "fresh")); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := work(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%.3f\n", float64(time.Since(start).Microseconds())/1000)
	return err
}

func prepareFiles(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "many"), 0o777); err != nil {
		return err
	}
	for i := range many {
		name := treeName(filepath.Join(dir, "tree"), i)
		if i%perFolder == 0 {
			if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
				return err
			}
		}
		for _, name := range []string{name, filepath.Join(dir, "many", fmt.Sprintf("file-%05d", i))} {
			if err := os.WriteFile(name, []byte("content"), 0o666); err != nil {
				return err
			}
		}
	}
	return nil
}

func treeName(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("folder-%03d", i/perFolder), fmt.Sprintf("file-%02d", i%perFolder))
}

// writeFile returns when the file is on its disk.
func writeFile(name string, from io.Reader) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	// Else the copy would be the reader's or the writer's own way.
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{from}, make([]byte, block))
	return errors.Join(err, f.Sync(), f.Close())
}

func readFile(name string, to io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{f}, make([]byte, block))
	if err == nil && n != bigFile {
		err = fmt.Errorf("%s has %d bytes, want %d", name, n, bigFile)
	}
	return errors.Join(err, f.Close())
}

func readPages(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	buf := make([]byte, page)
	for i := 0; i < randomReads && err == nil; i++ {
		_, err = f.ReadAt(buf, rand.Int64N(bigFile/page)*page)
	}
	return errors.Join(err, f.Close())
}

// listFolder is what ls -l does.
func listFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := e.Info(); err != nil {
			return err
		}
	}
	if len(entries) != many {
		return fmt.Errorf("%s has %d entries, want %d", dir, len(entries), many)
	}
	return nil
}

// walk is what git status does first: it looks at each file that it knows of.
func walk(dir string) error {
	for i := range many {
		if _, err := os.Lstat(treeName(dir, i)); err != nil {
			return err
		}
	}
	return nil
}

func createFiles(dir string) error {
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	content := make([]byte, 1<<10)
	for i := range freshFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", i)), content, 0o666); err != nil {
			return err
		}
	}
	return nil
}
