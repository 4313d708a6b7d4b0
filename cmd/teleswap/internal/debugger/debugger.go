// Package debugger makes of a command one that waits for a debugger, and tells how to attach that. It starts nothing, and knows
// no Kubernetes.
package debugger

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Request is a command to be debugged. All fields but Port are needed.
type Request struct {
	Argv []string
	// Port on which the debugger listens, at 127.0.0.1; 0: the one that is usual for the language.
	Port uint16
	// Name is the configuration's in the editor.
	Name string
	// Output is where delve may put the program that it builds.
	Output string
	// Find is the path of a tool; IsGo says whether a command is a Go program; Try whether a command ends well.
	Find func(name string) (string, error)
	IsGo func(command string) bool
	Try  func(argv ...string) bool
}

// Plan is the command to run instead, the port on which its debugger listens, and what to tell the user, a line each.
type Plan struct {
	Argv   []string
	Port   uint16
	Attach []string
}

const (
	goPort     = 2345
	nodePort   = 9229
	pythonPort = 5678
	javaPort   = 5005
)

var (
	isPython = regexp.MustCompile(`^(python|pypy)[0-9.]*$`)
	isNode   = regexp.MustCompile(`^(node|nodejs)$`)
)

// Make plans a command. The error says what is missing, or which commands are known.
func Make(r Request) (Plan, error) {
	name := strings.TrimSuffix(filepath.Base(r.Argv[0]), ".exe")
	switch {
	case name == "go":
		return r.goRun()
	case isNode.MatchString(name):
		return r.node()
	case isPython.MatchString(name):
		return r.python()
	case name == "java":
		return r.java()
	case name == "dlv":
		return Plan{}, errors.New("the command is delve already; leave --debug away, and publish its port: --publish 2345")
	case r.IsGo(r.Argv[0]):
		return r.delve("exec", []string{r.Argv[0]}, nil, r.Argv[1:])
	}
	return Plan{}, fmt.Errorf("there is no debugger known for %s: it is for `go run`, Go programs, node, python and java\n"+
		"run the debugger yourself, listening on 127.0.0.1:PORT, and give --publish PORT instead of --debug", r.Argv[0])
}

func (r Request) port(usual uint16) uint16 {
	if r.Port != 0 {
		return r.Port
	}
	return usual
}

// goRun is `go run [build flags] package [arguments]` (cmd/go, "Compile and run Go program").
func (r Request) goRun() (Plan, error) {
	if len(r.Argv) < 3 || r.Argv[1] != "run" {
		return Plan{}, fmt.Errorf("of the go command `go run PACKAGE` can be debugged, not %q\nbuild the program, and run that", strings.Join(r.Argv, " "))
	}
	args := r.Argv[2:]
	var flags []string
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, _, joined := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		if name == "C" || name == "exec" {
			return Plan{}, fmt.Errorf("go run's -%s and --debug do not go together; change into the folder, or build the program and run that", name)
		}
		n := 1
		if !joined && slices.Contains(valueFlags(), name) {
			n = 2
		}
		if n > len(args) {
			break
		}
		flags, args = append(flags, args[:n]...), args[n:]
	}
	n := 0 // files, or one package
	for n < len(args) && strings.HasSuffix(args[n], ".go") {
		n++
	}
	n = max(n, 1)
	if len(args) < n {
		return Plan{}, errors.New("go run names no package")
	}
	if strings.Contains(args[0], "@") {
		return Plan{}, fmt.Errorf("%s is no package of this folder's module; install it, and run the program", args[0])
	}
	return r.delve("debug", args[:n], flags, args[n:])
}

// valueFlags are the build flags of the go command that take a value.
func valueFlags() []string {
	return []string{
		"p", "asmflags", "buildmode", "buildvcs", "compiler", "covermode", "coverpkg", "gccgoflags", "gcflags", "installsuffix",
		"ldflags", "mod", "modfile", "overlay", "pgo", "pkgdir", "tags", "toolexec",
	}
}

// delve runs a package or a program under a delve that waits for nobody (dlv(1)): `dlv VERB`.
func (r Request) delve(verb string, what, flags, args []string) (Plan, error) {
	dlv, err := r.Find("dlv")
	if err != nil {
		return Plan{}, errors.New("the debugger of Go, delve, is neither in PATH nor in GOBIN; to install it: go install github.com/go-delve/delve/cmd/dlv@latest")
	}
	port := r.port(goPort)
	argv := append([]string{dlv, verb}, what...)
	argv = append(argv, "--headless", fmt.Sprintf("--listen=127.0.0.1:%d", port), "--api-version=2", "--accept-multiclient", "--continue")
	if verb == "debug" {
		argv = append(argv, "--output="+r.Output)
	}
	if len(flags) > 0 {
		argv = append(argv, "--build-flags="+quoted(flags))
	}
	if len(args) > 0 {
		argv = append(append(argv, "--"), args...)
	}
	return Plan{argv, port, r.attach(port, map[string]any{"type": "go", "request": "attach", "mode": "remote", "host": "127.0.0.1", "port": port}, "Go Remote")}, nil
}

// quoted is how delve takes build flags: in one argument, quoted where they have spaces.
func quoted(flags []string) string {
	texts := make([]string, 0, len(flags))
	for _, f := range flags {
		if strings.ContainsAny(f, " \t'\"") {
			f = "'" + strings.ReplaceAll(f, "'", `\'`) + "'"
		}
		texts = append(texts, f)
	}
	return strings.Join(texts, " ")
}

// node is Node.js's inspector (node(1), --inspect).
func (r Request) node() (Plan, error) {
	for _, arg := range r.Argv[1:] {
		if strings.HasPrefix(arg, "--inspect") {
			return Plan{}, fmt.Errorf("the command has %s itself; leave that away, or give --publish %d instead of --debug", arg, r.port(nodePort))
		}
		if !strings.HasPrefix(arg, "-") {
			break
		}
	}
	port := r.port(nodePort)
	argv := append([]string{r.Argv[0], fmt.Sprintf("--inspect=127.0.0.1:%d", port)}, r.Argv[1:]...)
	return Plan{argv, port, r.attach(port, map[string]any{"type": "node", "request": "attach", "address": "127.0.0.1", "port": port}, "Attach to Node.js/Chrome")}, nil
}

// python is debugpy (`python -m debugpy --help`): it stands between the interpreter's options and the program.
func (r Request) python() (Plan, error) {
	at := 1
	for at < len(r.Argv) && strings.HasPrefix(r.Argv[at], "-") && r.Argv[at] != "-" && !isProgram(r.Argv[at]) {
		if r.Argv[at] == "-W" || r.Argv[at] == "-X" {
			at++
		}
		at++
	}
	if at >= len(r.Argv) {
		return Plan{}, errors.New("python runs no program; name one, or a module by -m")
	}
	if !r.Try(r.Argv[0], "-c", "import debugpy") {
		return Plan{}, fmt.Errorf("python's debugger, debugpy, is not there; to install it: %s -m pip install debugpy", r.Argv[0])
	}
	port := r.port(pythonPort)
	argv := append(slices.Clone(r.Argv[:at]), "-m", "debugpy", "--listen", fmt.Sprintf("127.0.0.1:%d", port))
	argv = append(argv, r.Argv[at:]...)
	return Plan{argv, port, r.attach(port, map[string]any{
		"type": "debugpy", "request": "attach", "connect": map[string]any{"host": "127.0.0.1", "port": port},
	}, "")}, nil
}

func isProgram(arg string) bool { return strings.HasPrefix(arg, "-m") || strings.HasPrefix(arg, "-c") }

// java is the JDK's debug agent (JDWP, "Connection and Invocation Details").
func (r Request) java() (Plan, error) {
	for _, arg := range r.Argv[1:] {
		if strings.HasPrefix(arg, "-agentlib:jdwp") || strings.HasPrefix(arg, "-Xrunjdwp") {
			return Plan{}, fmt.Errorf("the command has %s itself; leave that away, or give --publish PORT instead of --debug", arg)
		}
	}
	port := r.port(javaPort)
	agent := fmt.Sprintf("-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=127.0.0.1:%d", port)
	argv := append([]string{r.Argv[0], agent}, r.Argv[1:]...)
	return Plan{argv, port, r.attach(port, map[string]any{"type": "java", "request": "attach", "hostName": "127.0.0.1", "port": port}, "Remote JVM Debug")}, nil
}

// attach are the lines for VS Code's launch.json and for JetBrains' IDEs, whose kind of configuration is given.
func (r Request) attach(port uint16, launch map[string]any, jetbrains string) []string {
	launch["name"] = r.Name
	b, err := json.Marshal(launch)
	if err != nil { // numbers and texts only
		b = nil
	}
	lines := []string{
		fmt.Sprintf("· the debugger listens at 127.0.0.1:%d", port),
		"· VS Code, .vscode/launch.json, in \"configurations\": " + string(b),
	}
	if jetbrains == "" {
		return append(lines, "· PyCharm's own debugger speaks another protocol; editors with DAP take the line above")
	}
	return append(lines, fmt.Sprintf("· JetBrains: Run, Edit Configurations, +, %s: host 127.0.0.1, port %d", jetbrains, port))
}
