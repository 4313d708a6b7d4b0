package sandbox

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
	"github.com/teleswap/teleswap/proxy/accept"
)

// gateName is the gate's socket in the abstract namespace, which belongs to the network that keeper and container share.
const gateName = "@teleswap/gate"

// statusNoCommand is what docker run returns for a command that is not there.
const statusNoCommand = 127

// pass lets a gate start its command, with the pod's variables.
type pass struct {
	Refused string
	Env     []string // NAME=VALUE
	Own     []string // names that keep the container's value
	// Late is of a command that was started in the container beside its own: of what goes wrong nobody else tells.
	Late bool
}

// gates is where gates report.
type gates struct {
	lis *net.UnixListener
	pass
}

func listenGates(spec *Spec) (*gates, error) {
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: gateName, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the container: %w", err)
	}
	return &gates{lis, pass{Env: spec.Env, Own: spec.Container.Own}}, nil
}

func (g *gates) close() { _ = g.lis.Close() }

// gate is the keeper's end of one.
type gate struct {
	user
	pid  int
	conn *net.UnixConn
	pass pass
}

// first waits for the container's own.
func (g *gates) first() (*gate, error) { return g.accept() }

func (g *gates) accept() (*gate, error) {
	conn, err := g.lis.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("wait for the container: %w", err)
	}
	return g.gate(conn)
}

// gate is made of a connection, which it owns.
func (g *gates) gate(conn *net.UnixConn) (*gate, error) {
	cred, err := unixsock.Peer(conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the container: %w", err), conn.Close())
	}
	return &gate{user{int(cred.Uid), int(cred.Gid)}, int(cred.Pid), conn, g.pass}, nil
}

// open lets the command start, and returns nil when it has.
func (g *gate) open() error {
	defer func() { _ = g.conn.Close() }()
	if err := gob.NewEncoder(g.conn).Encode(g.pass); err != nil {
		return fmt.Errorf("start the container's command: %w", err)
	}
	// The end of the connection is execve(2)'s doing; otherwise the gate says what went wrong.
	var failed string
	if gob.NewDecoder(g.conn).Decode(&failed) == nil {
		return errors.New(failed)
	}
	return nil
}

func (g *gate) refuse(err error) {
	_ = gob.NewEncoder(g.conn).Encode(pass{Refused: err.Error(), Late: g.pass.Late})
	_ = g.conn.Close()
}

// serveLoop gives the pod's variables to what is started in the container later (docker exec), by the same user or root. It
// ends with the listener.
func (g *gates) serveLoop(command user) {
	accept.Loop(g.lis, func(error) {}, func(c net.Conn) {
		late, err := g.gate(c.(*net.UnixConn))
		if err != nil {
			return
		}
		late.pass.Late = true
		if late.UID == 0 || late.UID == command.UID {
			go func() { _ = late.open() }() // ends when the command has started
			return
		}
		late.refuse(errors.New("only the container's user and root get the pod's variables"))
	})
}

// Gate is what the program does as a container's first process: it waits until the container is like the pod, and replaces
// itself by argv. It returns the exit status for where it could not.
func Gate(argv []string) int {
	if len(argv) == 0 {
		return statusNoCommand
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: gateName, Net: "unix"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "teleswap: the swap has ended:", err)
		return statusNoCommand
	}
	passThrough(conn, argv, os.Stderr)
	return statusNoCommand
}

// passThrough returns where the command cannot be started. Why the keeper tells, or else a line to says.
func passThrough(conn net.Conn, argv []string, says io.Writer) {
	var p pass
	if err := gob.NewDecoder(conn).Decode(&p); err != nil {
		return // the keeper has ended, and with it the container
	}
	why := p.Refused
	if why == "" {
		why = replace(argv, p.environment(os.Environ())).Error()
		_ = gob.NewEncoder(conn).Encode(why)
	}
	if p.Late {
		fmt.Fprintln(says, "teleswap:", why)
	}
}

// environment lays the pod's variables over the container's, but for those that are the user's own.
func (p *pass) environment(container []string) []string {
	names := make(map[string]bool, len(p.Env))
	var pod []string
	for _, kv := range p.Env {
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains(p.Own, name) {
			names[name] = true
			pod = append(pod, kv)
		}
	}
	all := slices.DeleteFunc(slices.Clone(container), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return names[name]
	})
	return append(all, pod...)
}

// replace is execvpe(3).
func replace(argv, env []string) error {
	path, err := lookPath(argv[0], env)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, argv, env)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: no such file in the image, or not the interpreter that it names", argv[0])
	}
	return fmt.Errorf("start %s: %w", argv[0], err)
}
