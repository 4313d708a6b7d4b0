// Package teleswap holds no code: its test keeps the rules that no linter
// knows, over the whole repository.
package teleswap

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const maxLines = 700

// goFiles calls visit for every Go file that is ours and written by hand.
func goFiles(t *testing.T, visit func(path string, content []byte)) {
	t.Helper()
	generated := regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache" || d.Name() == "bin" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !generated.Match(content) {
			visit(path, content)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walk the repository: %v", err)
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	commented := map[string]bool{}
	goFiles(t, func(path string, content []byte) {
		dir := filepath.Dir(path)
		if strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		commented[dir] = commented[dir] || file.Doc != nil
	})
	if len(commented) < 10 {
		t.Fatalf("found %d packages only: the walk is wrong", len(commented))
	}
	for dir, has := range commented {
		if !has {
			t.Errorf("package in %s has no package comment: say what it does and what it does not know", dir)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	goFiles(t, func(path string, content []byte) {
		if n := strings.Count(string(content), "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by idea", path, n, maxLines)
		}
	})
}

func TestNoVagueNames(t *testing.T) {
	vague := map[string]bool{"util": true, "utils": true, "common": true, "helper": true, "helpers": true, "types": true, "misc": true}
	goFiles(t, func(path string, _ []byte) {
		for dir := range strings.SplitSeq(filepath.Dir(path), string(filepath.Separator)) {
			if vague[dir] {
				t.Errorf("%s: a folder named %q says nothing about what is in it", path, dir)
			}
		}
	})
}

// TestReadmeCommandsExist holds README to the Makefile: each `make x` that it
// names must be a target.
func TestReadmeCommandsExist(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	named := regexp.MustCompile("(?m)(?:^|`|\\$ |sudo )make ([a-z][a-z0-9-]*)").FindAllStringSubmatch(string(readme), -1)
	if len(named) == 0 {
		t.Fatal("README names no make target: the pattern is wrong")
	}
	for _, m := range named {
		if !targets[m[1]] {
			t.Errorf("README says `make %s`, but the Makefile has no such target", m[1])
		}
	}
}
