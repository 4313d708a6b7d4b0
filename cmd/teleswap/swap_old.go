package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
)

// takeOldForm turns an old command line into ours and says so; others it leaves as they are.
func (a *app) takeOldForm(args []string) ([]string, error) {
	if !isOldForm(args) {
		return args, nil
	}
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	m, err := fromOldForm(args, oldWorld{log: a.paths.Log, shell: shell, name: func() string { return "teleswap-" + strings.ToLower(rand.Text()[:6]) }})
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(a.err, "· the old command line; the new form is: "+m.line())
	for _, note := range m.notes {
		fmt.Fprintln(a.err, "· "+note)
	}
	a.oldEnv = m.env
	return m.args, nil
}
