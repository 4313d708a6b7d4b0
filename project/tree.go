package project

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Position is a place in a file; both count from 1. The zero Position is the file as a whole.
type Position struct{ Line, Column int }

// node is a value of a YAML file: what JSON knows, and where it stands.
type node struct {
	at     Position
	value  any     // of a scalar: string, bool, nil, int64, float64
	text   string  // of a scalar: as it is written
	fields []field // of a mapping, in the order of the file
	items  []*node // of a sequence
	kind   yaml.Kind
}

type field struct {
	name  string
	at    Position // of the name
	value *node
}

func (n *node) field(name string) *field {
	for i := range n.fields {
		if n.fields[i].name == name {
			return &n.fields[i]
		}
	}
	return nil
}

// json is the value as a validator of JSON schemas wants it.
func (n *node) json() any {
	switch n.kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			m[f.name] = f.value.json()
		}
		return m
	case yaml.SequenceNode:
		l := make([]any, len(n.items))
		for i, item := range n.items {
			l[i] = item.json()
		}
		return l
	}
	return n.value
}

// find is the value at a path of names and indexes; nil where there is none.
func (n *node) find(path []string) *node {
	for _, step := range path {
		switch n.kind {
		case yaml.MappingNode:
			f := n.field(step)
			if f == nil {
				return nil
			}
			n = f.value
		case yaml.SequenceNode:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(n.items) {
				return nil
			}
			n = n.items[i]
		default:
			return nil
		}
	}
	return n
}

// maxNodes bounds what aliases can multiply.
const maxNodes = 100_000

// reader makes a tree of what the YAML library has read.
type reader struct {
	problems []Problem
	nodes    int
	into     []*yaml.Node // the aliases that are being followed
}

// readTree reads a file of one YAML document. Nil, without problems, stands for an empty one.
func readTree(data []byte) (*node, []Problem) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, []Problem{syntaxProblem(err)}
	}
	err := decoder.Decode(&second)
	switch {
	case err == nil:
		return nil, []Problem{{At: positionOf(&second), Text: "a second document begins here; a project file is one: leave out the --- line"}}
	case !errors.Is(err, io.EOF):
		return nil, []Problem{syntaxProblem(err)}
	}
	if len(document.Content) != 1 {
		return nil, nil
	}
	var r reader
	root := r.read(document.Content[0])
	return root, r.problems
}

func positionOf(n *yaml.Node) Position { return Position{n.Line, n.Column} }

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxProblem takes the line out of the library's error, which has no column.
func syntaxProblem(err error) Problem {
	p := Problem{Text: "this is no YAML: " + err.Error()}
	if m := yamlLine.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0]); m != nil {
		p.Text = "this is no YAML: " + m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			p.At = Position{line, 1}
		}
	}
	if strings.Contains(p.Text, "cannot start any token") {
		p.Text += "; indent by spaces, not by tabs"
	}
	return p
}

func (r *reader) problem(at *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, Problem{At: positionOf(at), Text: fmt.Sprintf(format, args...)})
}

func (r *reader) read(n *yaml.Node) *node {
	out := &node{at: positionOf(n), kind: n.Kind}
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.problem(n, "this file has more than %d values; are its aliases (*name) meant to be so many?", maxNodes)
		}
		out.kind = yaml.ScalarNode
		return out
	}
	switch n.Kind {
	case yaml.AliasNode:
		if slices.Contains(r.into, n.Alias) {
			r.problem(n, "*%s contains itself; write out what is meant", n.Value)
			out.kind = yaml.ScalarNode
			return out
		}
		r.into = append(r.into, n.Alias)
		out = r.read(n.Alias)
		r.into = r.into[:len(r.into)-1]
	case yaml.MappingNode:
		r.readMapping(n, out)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			out.items = append(out.items, r.read(item))
		}
	default:
		out.value, out.text = scalar(n), n.Value
	}
	return out
}

func (r *reader) readMapping(n *yaml.Node, out *node) {
	var merged []field
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		switch {
		case name.Kind != yaml.ScalarNode:
			r.problem(name, "a key is a word, not a list or a mapping")
		case name.ShortTag() == "!!merge":
			merged = append(merged, r.readMerge(value)...)
		default:
			if before := out.field(name.Value); before != nil {
				r.problem(name, "%q is here twice, first at line %d; leave one of them out", name.Value, before.at.Line)
				continue
			}
			out.fields = append(out.fields, field{name.Value, positionOf(name), r.read(value)})
		}
	}
	for _, f := range merged { // what is written here holds over what is merged, and the first over the next
		if out.field(f.name) == nil {
			out.fields = append(out.fields, f)
		}
	}
}

// readMerge reads the value of a << key: a mapping or a list of them (https://yaml.org/type/merge.html).
func (r *reader) readMerge(n *yaml.Node) []field {
	read := r.read(n)
	all := []*node{read}
	if read.kind == yaml.SequenceNode {
		all = read.items
	}
	var fields []field
	for _, m := range all {
		if m.kind != yaml.MappingNode {
			r.problem(n, "<< takes in a mapping, or a list of them, and this is neither")
			return nil
		}
		fields = append(fields, m.fields...)
	}
	return fields
}

// scalar is the value as JSON has it: what JSON does not know, such as a date, is text.
func scalar(n *yaml.Node) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
	case "!!float":
		var f float64
		if n.Decode(&f) == nil && f == f && f-f == 0 { // JSON has no NaN and no infinity
			return f
		}
	}
	return n.Value
}
