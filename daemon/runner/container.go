package runner

import (
	"github.com/teleswap/teleswap/daemon/docker"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

// KeepArg and GateArg are the first arguments with which the program must return KeepMain's or GateMain's exit status and do
// nothing else: it does so in containers.
const (
	KeepArg = "__container-keeper"
	GateArg = "__container-gate"
	// MapArg is the same for MapMain.
	MapArg = sandbox.MapArg
)

// ContainerSpec says what a container is that stands for a pod's.
type ContainerSpec struct {
	// Sandbox is the network and the volumes. Its Handoff is the daemon's socket; Argv, Dir and Terminal are not used.
	Sandbox Spec
	Client  *docker.Client
	Run     *docker.Run
	Image   *docker.Image
	// Own are the names of the variables that the user has set for the container.
	Own []string
	// Dir is a directory of the user's for a socket.
	Dir string
}

// Name is what the container is called.
func (s *ContainerSpec) Name() string { return docker.ContainerName(s.Sandbox.Session, s.Run.Name) }

// keeperName is that of the container that keeps the network.
func (s *ContainerSpec) keeperName() string { return "teleswap-" + s.Sandbox.Session + "-net" }

// gatePath is where the program is in the container.
const gatePath = "/.teleswap/teleswap"

// keeperWords are docker's words for the keeper. It is made of the user's own image, so there is no other to be had, or to be
// left: only what is put into it runs.
func (s *ContainerSpec) keeperWords(control string) []string {
	words := []string{
		"run", "--rm", "--name", s.keeperName(), "--hostname", s.Sandbox.Hostname,
		"--network", "none", "--pid", "host", "--userns", "host",
		"--user", "0:0", "--workdir", "/", "--no-healthcheck", "--pull", "never",
		"--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE",
		"--security-opt", "apparmor=unconfined", "--security-opt", "seccomp=unconfined", "--security-opt", "label=disable",
		"--device", "/dev/net/tun", "--device", "/dev/fuse",
		"--mount", bind(s.Client.Program, gatePath) + ",readonly",
		"--mount", bind(control, sandbox.KeeperControl),
		"--mount", bind(s.Sandbox.Handoff, sandbox.KeeperHandoff),
		"--entrypoint", gatePath,
	}
	if s.Run.Platform != "" {
		words = append(words, "--platform", s.Run.Platform)
	}
	for volume := range s.Image.Config.Volumes { // it needs no copies of them
		words = append(words, "--tmpfs", volume)
	}
	return append(words, s.Run.Image, KeepArg)
}

// words are docker's for the user's container.
func (s *ContainerSpec) words() []string {
	words := []string{
		"run", "--network", "container:" + s.keeperName(), "--pull", "never",
		"--mount", bind(s.Client.Program, gatePath) + ",readonly", "--entrypoint", gatePath,
	}
	if s.Run.Name == "" {
		words = append(words, "--name", s.Name())
	}
	if s.Run.CIDFile != "" {
		words = append(words, "--cidfile", s.Run.CIDFile)
	}
	words = append(append(words, s.Run.Flags...), s.Run.Image, GateArg)
	return append(words, s.Run.Argv(s.Image)...)
}

// ExecWords are docker's words that run argv in a container that StartContainer has started, with the pod's variables. flags
// are those of docker exec.
func ExecWords(container string, flags, argv []string) []string {
	words := append([]string{"exec"}, flags...)
	return append(append(words, container, gatePath, GateArg), argv...)
}

// bind is a value of docker's --mount. It is a line of CSV.
func bind(source, target string) string {
	return quoted("source="+source) + "," + quoted("target="+target) + ",type=bind"
}

func quoted(field string) string {
	out := make([]byte, 0, len(field)+2)
	plain := true
	for i := range len(field) {
		c := field[i]
		plain = plain && c != ',' && c != '"' && c != '\n'
		if c == '"' {
			out = append(out, '"')
		}
		out = append(out, c)
	}
	if plain {
		return field
	}
	return `"` + string(out) + `"`
}

// KeepMain is what the program does when its first argument is KeepArg.
func KeepMain() int { return sandbox.Keep() }

// GateMain is what the program does when its first argument is GateArg; args are those after it.
func GateMain(args []string) int { return sandbox.Gate(args) }

// MapMain is what the program does when its first argument is MapArg.
func MapMain() int { return sandbox.WaitMapped() }
