package project

import (
	"bytes"
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// Example is the content of a project file of one session. command may be of several words; namespace and context may be
// empty.
func Example(context, namespace, target string, command []string) ([]byte, error) {
	words := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, w := range command {
		words.Content = append(words.Content, text(w))
	}
	session := mapping("target", text(target), "command", words)
	file := mapping()
	if context != "" {
		file.Content = append(file.Content, text("context"), text(context))
	}
	if namespace != "" {
		file.Content = append(file.Content, text("namespace"), text(namespace))
	}
	file.Content = append(file.Content, text("sessions"), mapping(sessionName(target), session))
	var out bytes.Buffer
	out.WriteString("# yaml-language-server: $schema=" + SchemaURL + "\n" +
		"# `teleswap up` starts these sessions; `teleswap config schema` prints what can be said here.\n")
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(file); err != nil {
		return nil, fmt.Errorf("write the project file: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("write the project file: %w", err)
	}
	out.WriteString(`    # dir: services/web          # the command's folder, from this file's
    # env: {LOG_LEVEL: debug}    # over the pod's
    # expose: [3000:8080]        # the target's port 8080 is the process's 3000
    # publish: [9229]            # a port of the process at this machine's 127.0.0.1
`)
	return out.Bytes(), nil
}

func text(value string) *yaml.Node {
	var n yaml.Node
	n.SetString(value)
	return &n
}

// mapping is of names and their values in turn.
func mapping(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range pairs {
		switch p := p.(type) {
		case string:
			n.Content = append(n.Content, text(p))
		case *yaml.Node:
			n.Content = append(n.Content, p)
		}
	}
	return n
}

var targetName = regexp.MustCompile(`^(?:[^/]*/)?([^:/]+)`)

// sessionName is the workload's name.
func sessionName(target string) string {
	if m := targetName.FindStringSubmatch(target); m != nil {
		return m[1]
	}
	return "main"
}
