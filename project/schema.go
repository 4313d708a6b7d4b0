package project

import (
	"bytes"
	_ "embed" // the schema
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/teleswap/teleswap/spelling"
)

// Schema is the JSON schema (draft 2020-12) of a project file. Editors use it, and so does Parse: there is no other
// list of the keys.
//
//go:embed schema.json
var Schema []byte

// SchemaURL is where editors find the schema.
const SchemaURL = "https://raw.githubusercontent.com/teleswap/teleswap/main/project/schema.json"

const sessionSchema = SchemaURL + "#/$defs/session"

// compiled is the schema of a whole file and that of one session.
var compiled = sync.OnceValues(func() (schemas, error) {
	var s schemas
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		return s, fmt.Errorf("read the schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(SchemaURL, doc); err != nil {
		return s, fmt.Errorf("read the schema: %w", err)
	}
	if s.file, err = c.Compile(SchemaURL); err == nil {
		s.session, err = c.Compile(sessionSchema)
	}
	if err != nil {
		return s, fmt.Errorf("compile the schema: %w", err)
	}
	return s, nil
})

type schemas struct{ file, session *jsonschema.Schema }

// hold holds a tree to a schema.
func hold(schema *jsonschema.Schema, root *node) []Problem {
	err := schema.Validate(root.json())
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return []Problem{{At: root.at, Text: err.Error()}}
	}
	var found []Problem
	for _, leaf := range leaves(invalid) {
		found = append(found, explain(schema, root, leaf)...)
	}
	return found
}

// leaves are the errors that have no others as their causes, and choices, which say by themselves what is wrong.
func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if _, choice := e.ErrorKind.(*kind.OneOf); len(e.Causes) == 0 || choice {
		return []*jsonschema.ValidationError{e}
	}
	var all []*jsonschema.ValidationError
	for _, cause := range e.Causes {
		all = append(all, leaves(cause)...)
	}
	return all
}

// explain puts an error of the validator into words.
func explain(schema *jsonschema.Schema, root *node, e *jsonschema.ValidationError) []Problem {
	path := e.InstanceLocation
	here := root.find(path)
	if here == nil {
		here = root
	}
	name := "the file"
	if len(path) > 0 {
		name = strings.Join(path, ".")
	}
	one := func(at Position, format string, args ...any) []Problem {
		return []Problem{{At: at, Text: fmt.Sprintf(format, args...)}}
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		known := keys(schema, path)
		var all []Problem
		for _, key := range k.Properties {
			at := here.at
			if f := here.field(key); f != nil {
				at = f.at
			}
			near := spelling.Nearest(key, known)
			switch {
			case len(known) == 0: // any name that is one will do
				all = append(all, one(at, "%s: %q is no name for this; %s", name, key, nameHint(path))...)
			case near != "":
				all = append(all, one(at, "unknown key %q; did you mean %s?", key, near)...)
			default:
				all = append(all, one(at, "unknown key %q; known are %s", key, strings.Join(known, ", "))...)
			}
		}
		return all
	case *kind.Required:
		at := here.at
		if f := root.named(path); f != nil {
			at = f.at
		}
		return one(at, "%s has no %s; %s", name, strings.Join(k.Missing, " and no "), missingHint(k.Missing))
	case *kind.OneOf: // of a session, which has nothing else of the kind
		at := here.at
		if f := root.named(path); f != nil {
			at = f.at
		}
		if len(k.Subschemas) > 0 {
			return one(at, "%s has target and new; new makes a Deployment of its own, so leave one of them out", name)
		}
		return one(at, "%s has no target; name the workload that is swapped, for example target: deployment/web, or what is to be made, by new: NAME", name)
	case *kind.Type:
		return one(here.at, "%s is %s; it must be %s", name, called(k.Got), wanted(k.Want))
	case *kind.Enum:
		return one(here.at, "%s is %q; it can be %s", name, fmt.Sprint(k.Got), choices(k.Want))
	case *kind.MinLength, *kind.MinItems, *kind.MinProperties:
		return one(here.at, "%s is empty; give it a value, or leave it out", name)
	default:
		return one(here.at, "%s is wrong: %s", name, e.Error())
	}
}

// named is the field that a path leads to, for the place of its name.
func (n *node) named(path []string) *field {
	if len(path) == 0 {
		return nil
	}
	parent := n.find(path[:len(path)-1])
	if parent == nil {
		return nil
	}
	return parent.field(path[len(path)-1])
}

// keys are what a mapping of the file can have; none where it has names of the user's choice.
func keys(schema *jsonschema.Schema, path []string) []string {
	for _, step := range path {
		if schema = property(resolved(schema), step); schema == nil {
			return nil
		}
	}
	return slices.Sorted(maps.Keys(resolved(schema).Properties))
}

func property(schema *jsonschema.Schema, name string) *jsonschema.Schema {
	if p, ok := schema.Properties[name]; ok {
		return p
	}
	for pattern, p := range schema.PatternProperties {
		if pattern.MatchString(name) {
			return p
		}
	}
	return nil
}

func resolved(schema *jsonschema.Schema) *jsonschema.Schema {
	for schema.Ref != nil {
		schema = schema.Ref
	}
	return schema
}

func missingHint(missing []string) string {
	switch missing[0] {
	case "sessions":
		return "it names what `teleswap up` starts; `teleswap init` writes an example"
	}
	return "add it"
}

func nameHint(path []string) string {
	if len(path) > 0 && path[len(path)-1] == "env" {
		return "a variable's name has no = and no spaces"
	}
	return "letters, digits, dots, dashes and underscores make one"
}

func called(jsonType string) string {
	switch jsonType {
	case "null":
		return "empty"
	case "object":
		return "a mapping"
	case "array":
		return "a list"
	case "string":
		return "a text"
	case "boolean":
		return "true or false"
	}
	return "a number"
}

func wanted(types []string) string {
	var words []string
	for _, t := range types {
		if t == "null" {
			continue
		}
		words = append(words, called(t))
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " or ")
}

func choices(all []any) string {
	words := make([]string, len(all))
	for i, c := range all {
		words[i] = fmt.Sprint(c)
	}
	return strings.Join(words, ", ")
}
