package project

import (
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Extension is a session that another kind of file describes under a key of its own.
type Extension struct {
	Name  string
	File  string
	Data  []byte   // the file's content: for places in it
	Path  []string // of the value in the file
	Value any      // what the file's own reader has made of it
	Dir   string   // that the session's own is relative to
}

// Session reads the extension as a session of a project file is read, but for what it needs to run: that is the caller's
// to add. Error: Problems.
func (e Extension) Session(rules Rules) (Session, error) {
	schema, err := compiled()
	if err != nil {
		return Session{}, err
	}
	written, at := (*node)(nil), Position{}
	if root, _ := readTree(e.Data); root != nil {
		written = root.find(e.Path)
		if f := root.named(e.Path); f != nil {
			at = f.at
		}
	}
	tree := grow(e.Value, written, at)
	found := hold(schema.session, tree)
	if len(found) > 0 {
		for i := range found {
			found[i].Text = e.Path[len(e.Path)-1] + " of " + e.Name + ": " + found[i].Text
		}
		return Session{}, in(e.File, found)
	}
	s, found := decode(e.Name, at, tree, e.Dir, rules)
	s.file = e.File
	return s, in(e.File, found)
}

// grow makes a tree of values; written has their places, and how scalars were written. Nil: nobody knows.
func grow(value any, written *node, at Position) *node {
	n := &node{at: at, kind: yaml.ScalarNode}
	if written != nil {
		n.at = written.at
	}
	switch v := value.(type) {
	case map[string]any:
		n.kind = yaml.MappingNode
		for _, name := range sortedNames(v, written) {
			f := field{name: name, at: n.at}
			var inner *node
			if written != nil {
				if of := written.field(name); of != nil {
					f.at, inner = of.at, of.value
				}
			}
			f.value = grow(v[name], inner, f.at)
			n.fields = append(n.fields, f)
		}
	case []any:
		n.kind = yaml.SequenceNode
		for i, item := range v {
			var inner *node
			if written != nil && i < len(written.items) {
				inner = written.items[i]
			}
			n.items = append(n.items, grow(item, inner, n.at))
		}
	default:
		n.value = value
		if value != nil {
			n.text = fmt.Sprint(value)
		}
		if written != nil && written.value == value && written.kind == yaml.ScalarNode {
			n.text = written.text // 1.10 stays 1.10
		}
	}
	return n
}

// sortedNames are a mapping's names in the order in which they were written, and then the others.
func sortedNames(m map[string]any, written *node) []string {
	names := make([]string, 0, len(m))
	if written != nil {
		for _, f := range written.fields {
			if _, there := m[f.name]; there {
				names = append(names, f.name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
