package changes

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// pattern says which files below a root count.
type pattern struct {
	root  string   // a folder that is watched, or a file
	parts []string // of the path below root; nil: all
	name  bool     // parts has one element, which holds for the name in any folder
}

const wildcards = `*?[\`

// parse reads a pattern as it is seen from a folder.
func parse(dir, text string) (pattern, error) {
	bad := func(why string) (pattern, error) {
		return pattern{}, fmt.Errorf("%q %s; a pattern is a folder, a file, or has wildcards: '*.go', 'cmd/**/*.html'", text, why)
	}
	if text == "" {
		return bad("names nothing")
	}
	if _, err := path.Match(text, "x"); err != nil {
		return bad("has a bracket or a backslash without its end")
	}
	if !strings.ContainsAny(text, wildcards) {
		root := text
		if !filepath.IsAbs(root) {
			root = filepath.Join(dir, root)
		}
		st, err := os.Stat(root)
		if err != nil {
			return bad("is not there")
		}
		if st.IsDir() {
			return pattern{root: root}, nil
		}
		return pattern{root: root, parts: []string{}}, nil
	}
	if !strings.Contains(text, "/") {
		return pattern{root: dir, parts: []string{text}, name: true}, nil
	}
	root := dir
	if filepath.IsAbs(text) {
		root = "/"
	}
	parts := strings.Split(strings.Trim(path.Clean(text), "/"), "/")
	for !strings.ContainsAny(parts[0], wildcards) {
		root, parts = filepath.Join(root, parts[0]), parts[1:]
	}
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		return bad("is in no folder that there is")
	}
	return pattern{root: root, parts: parts}, nil
}

// matches tells whether it means a file.
func (p pattern) matches(file string) bool {
	below, err := filepath.Rel(p.root, file)
	if err != nil || below == ".." || strings.HasPrefix(below, "../") {
		return false
	}
	switch {
	case p.parts == nil:
		return true
	case p.name:
		return matchParts(p.parts, []string{path.Base(file)})
	case len(p.parts) == 0:
		return below == "."
	}
	return matchParts(p.parts, strings.Split(filepath.ToSlash(below), "/"))
}

// matchParts is path.Match folder by folder; ** is any number of them.
func matchParts(pattern, names []string) bool {
	for i, part := range pattern {
		if part == "**" {
			for skip := 0; skip <= len(names)-i; skip++ {
				if matchParts(pattern[i+1:], names[i+skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(names) {
			return false
		}
		if ok, err := path.Match(part, names[i]); err != nil || !ok {
			return false
		}
	}
	return len(pattern) == len(names)
}
