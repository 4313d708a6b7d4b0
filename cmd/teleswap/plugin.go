package main

import (
	"path/filepath"
	"strings"
)

// kubectl takes a program for its own verb by the program's name, and asks another one for
// the verb's completions: https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/.
const (
	pluginPrefix    = "kubectl-"
	completerPrefix = "kubectl_complete-"
)

// pluginName is how a user calls the program that runs under this name: "kubectl teleswap".
// Empty: by its own name.
func pluginName(program string) string {
	name := strings.TrimSuffix(filepath.Base(program), ".exe")
	for _, prefix := range []string{pluginPrefix, completerPrefix} {
		if verb, found := strings.CutPrefix(name, prefix); found {
			return "kubectl " + strings.ReplaceAll(verb, "_", "-")
		}
	}
	return ""
}

// completes says that the program runs under the name by which kubectl asks for completions.
func completes(program string) bool {
	return strings.HasPrefix(filepath.Base(program), completerPrefix)
}
