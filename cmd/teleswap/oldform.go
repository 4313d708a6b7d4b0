package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// The command line of Telepresence 1.x, which people have in their fingers, scripts and notes: every word before the
// command is a flag (`telepresence --swap-deployment NAME --run COMMAND…`). It was read by Python's argparse, without abbreviations.

// oldValue is what follows a flag of the old tool.
type oldValue int

const (
	oldAlone oldValue = iota // nothing
	oldOne                   // a value: --flag VALUE or --flag=VALUE
	oldRest                  // the rest of the line
)

// oldFlags are all that the old tool had, by the long name; oldShort the short ones.
var (
	oldFlags = map[string]oldValue{
		"--version": oldAlone, "--verbose": oldAlone, "--logfile": oldOne, "--method": oldOne, "--docker-host": oldOne,
		"--new-deployment": oldOne, "--swap-deployment": oldOne, "--deployment": oldOne, "--context": oldOne, "--namespace": oldOne,
		"--serviceaccount": oldOne, "--expose": oldOne, "--to-pod": oldOne, "--from-pod": oldOne, "--container-to-host": oldOne,
		"--also-proxy": oldOne, "--local-cluster": oldAlone, "--docker-mount": oldOne, "--mount": oldOne, "--env-json": oldOne,
		"--env-file": oldOne, "--run": oldRest, "--run-shell": oldAlone, "--docker-run": oldRest,
	}
	oldShort = map[string]string{"-m": "--method", "-n": "--new-deployment", "-s": "--swap-deployment", "-d": "--deployment"}
	// oldExclusive are groups of which one flag may be given.
	oldExclusive = [][]string{
		{"--new-deployment", "--swap-deployment", "--deployment"}, {"--run", "--run-shell", "--docker-run"}, {"--mount", "--docker-mount"},
	}
)

// oldWorld is what the meaning of an old command line depends on beside its words.
type oldWorld struct {
	log   string        // path of our daemon's
	shell string        // the user's
	name  func() string // of a Deployment that the user gives no name
}

// oldMeaning is what an old command line is here.
type oldMeaning struct {
	args  []string // the new form's, from the verb on
	notes []string // what is otherwise, one line each
	env   []string // KEY=VALUE that the old tool set
}

// line is the new form, as a shell takes it.
func (m oldMeaning) line() string {
	words := []string{"teleswap"}
	for _, w := range m.args {
		words = append(words, shellQuote(w))
	}
	return strings.Join(words, " ")
}

// isOldForm tells the old tool's command lines from ours: they begin with a flag of the old tool, and up to the command all is flags,
// one of them not kubectl's, and so ours, too: --context, --namespace, -n (a namespace) and -s (a server).
func isOldForm(args []string) bool {
	if len(args) == 0 {
		return false
	}
	first, _, _ := cutOldFlag(args[0])
	if _, known := oldFlags[first]; !known {
		return false
	}
	decisive := false
	for i := 0; i < len(args); i++ {
		name, _, joined := cutOldFlag(args[i])
		value, known := oldFlags[name]
		switch {
		case !strings.HasPrefix(args[i], "-") || args[i] == "--":
			return false // a verb of ours
		case !known:
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++ // its value, perhaps
			}
			continue
		}
		both := name == "--context" || name == "--namespace" || strings.HasPrefix(args[i], "-n") || strings.HasPrefix(args[i], "-s")
		decisive = decisive || !both
		if value == oldRest {
			return true
		}
		if value == oldOne && !joined && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
	}
	return decisive
}

// cutOldFlag takes --flag=VALUE and -fVALUE apart. The name is the long one.
func cutOldFlag(word string) (name, value string, joined bool) {
	if strings.HasPrefix(word, "--") {
		return strings.Cut(word, "=")
	}
	if len(word) < 2 || oldShort[word[:2]] == "" {
		return word, "", false
	}
	return oldShort[word[:2]], strings.TrimPrefix(word[2:], "="), len(word) > 2
}

// oldLine is an old command line taken apart: each flag's values.
type oldLine map[string][]string

func (l oldLine) has(name string) bool { return len(l[name]) > 0 }

// last is the value that counts of a flag given more than once.
func (l oldLine) last(name string) string {
	if v := l[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func parseOldLine(args []string) (oldLine, error) {
	l := oldLine{}
	for i := 0; i < len(args); i++ {
		name, text, joined := cutOldFlag(args[i])
		kind, known := oldFlags[name]
		switch {
		case !known && strings.HasPrefix(name, "-"):
			names := make([]string, 0, len(oldFlags))
			for n := range oldFlags {
				names = append(names, n)
			}
			slices.Sort(names)
			return nil, usage("the old command line has no flag %s%s\nthe flags of the new form: `teleswap swap --help`", name, didYouMean(name, names, ""))
		case !known:
			return nil, usage("%q is neither a flag nor the command: write --run in front of the command", args[i])
		case kind == oldAlone && joined:
			return nil, usage("%s takes no value", name)
		case kind == oldAlone:
			l[name] = append(l[name], "true")
		case kind == oldRest:
			rest := args[i+1:]
			if joined {
				rest = append([]string{text}, rest...)
			}
			if len(rest) == 0 {
				return nil, usage("%s needs what is to be run after it", name)
			}
			l[name] = rest
			return l, nil
		case joined:
			l[name] = append(l[name], text)
		case i+1 >= len(args) || strings.HasPrefix(args[i+1], "-"):
			return nil, usage("%s has no value", name)
		default:
			i++
			l[name] = append(l[name], args[i])
		}
	}
	return l, nil
}

// fromOldForm is the meaning of an old command line. What has none here is refused, with what to use.
func fromOldForm(args []string, w oldWorld) (oldMeaning, error) {
	l, err := parseOldLine(args)
	if err != nil {
		return oldMeaning{}, err
	}
	if l.has("--version") {
		return oldMeaning{args: []string{"version"}}, nil
	}
	for _, group := range oldExclusive {
		var given []string
		for _, name := range group {
			if l.has(name) {
				given = append(given, name)
			}
		}
		if len(given) > 1 {
			return oldMeaning{}, usage("%s exclude each other: give one of them", strings.Join(given, " and "))
		}
	}
	if err := refuseOld(l); err != nil {
		return oldMeaning{}, err
	}
	m := oldMeaning{args: []string{"swap"}}
	for _, take := range []func(*oldMeaning, oldLine, oldWorld) error{oldTarget, oldNetwork, oldFiles, oldWords, oldCommand} {
		if err := take(&m, l, w); err != nil {
			return oldMeaning{}, err
		}
	}
	return m, nil
}

// refuseOld answers flags that mean nothing here.
func refuseOld(l oldLine) error {
	switch {
	case l.has("--deployment"):
		return usage("--deployment %s: the old tool took a proxy there that you had installed; Teleswap needs none\n"+
			"to take the place of a Deployment: --swap-deployment %[1]s, in the new form `teleswap swap --deployment %[1]s`; to make one: --new-deployment NAME", l.last("--deployment"))
	case l.has("--container-to-host"):
		return usage("--container-to-host %s: not needed; this machine's ports are at host.teleswap.internal, from a container as from a process", l.last("--container-to-host"))
	case l.has("--docker-host"):
		return usage("--docker-host %s: not needed; this machine is host.teleswap.internal, and docker's own DOCKER_HOST or context says which docker is used", l.last("--docker-host"))
	case l.has("--serviceaccount") && l.has("--swap-deployment"):
		return usage("--serviceaccount %s: what is swapped keeps its own ServiceAccount; change it in the Deployment, or use --new-deployment NAME", l.last("--serviceaccount"))
	case l.has("--docker-mount") && !l.has("--docker-run"):
		return usage("--docker-mount goes with --docker-run; --mount is for --run and --run-shell")
	}
	return nil
}

func (m *oldMeaning) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// pass hands a flag's values on to a flag of ours.
func (m *oldMeaning) pass(l oldLine, from, to string) {
	for _, v := range l[from] {
		m.args = append(m.args, to, v)
	}
}

func oldTarget(m *oldMeaning, l oldLine, w oldWorld) error {
	switch {
	case l.has("--swap-deployment"):
		m.args = append(m.args, "--deployment", l.last("--swap-deployment"))
	case l.has("--new-deployment"):
		m.args = append(m.args, "--new", l.last("--new-deployment"))
	default:
		// Not connect: the old tool's command had the variables and the ServiceAccount's files of its pod, and --expose worked.
		m.args = append(m.args, "--new", w.name())
	}
	for _, name := range []string{"--context", "--namespace", "--serviceaccount"} {
		if l.has(name) {
			m.args = append(m.args, name, l.last(name))
		}
	}
	return nil
}

func oldNetwork(m *oldMeaning, l oldLine, _ oldWorld) error {
	for _, name := range []string{"--expose", "--to-pod", "--from-pod", "--also-proxy"} {
		m.pass(l, name, name)
	}
	switch method := l.last("--method"); method {
	case "":
	case "inject-tcp":
		m.note("--method inject-tcp: nothing is injected; the command has a network of its own, so static programs, UDP and ping work, too")
	case "vpn-tcp":
		m.note("--method vpn-tcp: this machine's network stays as it is, and root is not needed; the command alone has the pod's")
	case "container":
		if !l.has("--docker-run") {
			return usage("--method container goes with --docker-run")
		}
	default:
		return usage("--method %s: there were inject-tcp, vpn-tcp and container", method)
	}
	return nil
}

func oldFiles(m *oldMeaning, l oldLine, _ oldWorld) error {
	if l.has("--env-json") {
		m.args = append(m.args, "--env-json", l.last("--env-json"))
	}
	if l.has("--env-file") {
		m.args = append(m.args, "--env-write", l.last("--env-file"))
	}
	root := "/"
	switch mount := l.last("--mount"); {
	case mount == "" && l.has("--mount"):
		return usage("--mount is a directory's absolute path, true or false")
	case mount == "", mount == "true":
	case mount == "false":
		m.args = append(m.args, "--mount", "false")
		return nil
	case !filepath.IsAbs(mount):
		return usage("--mount %s: it is a directory's absolute path, true or false", mount)
	case l.has("--docker-run"):
		m.note("--mount %s: the pod's volumes are in the container, at their own paths", mount)
	default:
		m.args = append(m.args, "--mount", mount)
		root = mount
	}
	if l.has("--docker-mount") {
		m.note("--docker-mount %s: the pod's volumes are in the container at their own paths; $TELEPRESENCE_ROOT is /", l.last("--docker-mount"))
	}
	m.env = append(m.env, "TELEPRESENCE_ROOT="+root)
	return nil
}

func oldWords(m *oldMeaning, l oldLine, w oldWorld) error {
	if l.has("--logfile") {
		m.note("--logfile %s: the daemon's log is %s", l.last("--logfile"), w.log)
	} else if l.has("--verbose") {
		m.note("--verbose: the daemon's log has it all: %s", w.log)
	}
	if l.has("--local-cluster") {
		m.note("--local-cluster: not needed, a cluster on this machine is as any other")
	}
	return nil
}

func oldCommand(m *oldMeaning, l oldLine, w oldWorld) error {
	switch {
	case l.has("--docker-run"):
		m.args = append(append(m.args, "--docker-run"), l["--docker-run"]...)
	case l.has("--run"):
		m.args = append(append(m.args, "--run"), l["--run"]...)
	case l.has("--run-shell"):
		m.args = append(m.args, "--run", w.shell)
		if filepath.Base(w.shell) == "bash" {
			// bash's own files set PS1 after the environment has.
			m.env = append(m.env, `PROMPT_COMMAND=PS1="@`+promptName(m.args)+`|$PS1"; unset PROMPT_COMMAND`)
		}
	default:
		m.args = append(m.args, "--hold")
	}
	return nil
}

// promptName is what a shell's prompt calls the swap: the target's name, which Kubernetes keeps free of what a shell would expand, or
// else nothing.
func promptName(args []string) string {
	name, _, _ := strings.Cut(args[2], ":")
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		return "teleswap"
	}
	return name
}

// shellQuote writes a word so that a shell reads it as it is.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if word != "" && strings.TrimFunc(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
