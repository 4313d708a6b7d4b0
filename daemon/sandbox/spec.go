// Package sandbox makes the Linux namespaces that the local process runs in, and hands their network device to the
// daemon. It knows no Kubernetes and no tunnel. On other systems it says that it is not here.
//
// Three processes meet here. The CLI starts the sandbox's first process (the program itself, with InitArg) in new
// namespaces and talks to it over a Control. That one, Init, sets the namespaces up, sends the device and the
// network namespace to the daemon's HandoffListener, waits for its acknowledgement, gives up its privileges and starts
// the user's command, whose parent and reaper it stays. Over the same connection it makes sockets for the daemon in
// the sandbox, which the daemon itself could not enter.
package sandbox

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// InitArg is the first argument with which the program starts itself as the first process of a sandbox.
const InitArg = "__sandbox-init"

// DoorArg follows InitArg where the program is to be a Doorman.
const DoorArg = "door"

// DefaultMTU is the longest packet of a sandbox's device in bytes: nearly the longest IP packet there is, which is
// what makes bulk fast.
const DefaultMTU = 65520

// ErrUnsupported is what everything here returns on systems without Linux's namespaces.
var ErrUnsupported = errors.New("the sandbox needs Linux: it is made of Linux namespaces")

// Spec says what a sandbox is and what runs in it. It holds secrets (Env): it travels over an inherited
// descriptor, never in arguments, environment or files.
type Spec struct {
	// Session and Token tell the daemon whose sandbox this is; Handoff is the path of its handoff socket.
	Session, Token, Handoff string
	// Plain is a process without a sandbox: it sees the laptop as it is, and nothing is handed over. Of what follows only Door and the
	// command's own counts.
	Plain bool
	// Hostname is the pod's. Empty keeps the laptop's.
	Hostname string
	// Addrs are the pod's addresses; only the address counts, the prefix length does not.
	Addrs []netip.Prefix
	// MTU of the device in bytes. Zero: DefaultMTU.
	MTU int
	// ResolvConf and Hosts become /etc/resolv.conf and /etc/hosts. Nil leaves the laptop's.
	ResolvConf, Hosts []byte
	// Mounts are where the pod's volumes are seen.
	Mounts []Mount
	// Root is a directory below which all that is at / is seen again, the volumes, too. Empty: none.
	Root string
	// Door is the path of a unix socket, of mode 0600, at which commands are taken that are to run beside the user's; see
	// Knock. Empty: there is none.
	Door string
	// Env, Dir and Argv are the user's command. Argv[0] is looked up in the PATH of Env. Dir empty: the CLI's. Without Argv
	// there is no command: the sandbox stands until it is sent a signal other than SIGINT or SIGQUIT, or the CLI goes.
	Env  []string
	Dir  string
	Argv []string
	// Terminal says that the standard input is a terminal's end made for this sandbox: it becomes the controlling
	// terminal of a new session, and the command the foreground of it.
	Terminal bool
	// Restarts lets the command be started again (Order.Restart), and the sandbox outlive it: until a signal is sent when no
	// command runs, or the CLI has gone.
	Restarts bool
	// Held is how many files the first process was given to hold; Start sets it.
	Held int
	// Container is set where a keeper gets the Spec: the command is a container's, and Argv and Dir say nothing.
	Container *Container
}

// Container is what a keeper must know of the container whose network it keeps.
type Container struct {
	// Own are the names of variables that the user has set for the container: they hold over Env.
	Own []string
	// Places are where the user has mounted something in it: there the pod's volumes stay away.
	Places []string
}

// Mount is a place of the sandbox at which a volume of the pod is seen. The laptop's own files there are covered in the
// sandbox, and untouched.
type Mount struct {
	// Path is absolute; symbolic links of the laptop in it are followed.
	Path string
	// Live is a FUSE file system that the daemon serves; otherwise a tmpfs that it fills.
	Live bool
	// ReadOnly lets the command write nothing (EROFS). The daemon still can.
	ReadOnly bool
	// File says that Path is a file: it is the one named "file" at the top of the volume.
	File bool
}

// ErrStopped says that a sandbox is stopped, as by Ctrl-Z, and so makes nothing until it is continued.
var ErrStopped = errors.New("the sandbox is stopped")

// Handoff is a sandbox that waits for the daemon's acknowledgement, and makes sockets for the daemon until it is closed.
type Handoff struct {
	Session, Token string
	// PID is the sandbox's first process, as the kernel told it.
	PID int
	// Container says that PID is the keeper of a container, which others than root cannot end but by End.
	Container bool
	// UID and GID are the command's, as the volumes' file systems know them.
	UID, GID int
	// TUN is the device's file (for tun.FromFile), NetNS the network namespace (for Kill). They are the receiver's to
	// close.
	TUN, NetNS *os.File
	// Mounts are the volumes in the order of Spec.Mounts: a directory of a tmpfs, or (Live) a FUSE device that waits for its
	// server. Where the sandbox could not make one it is nil, and MountProblems says why. They are the receiver's to close.
	Mounts        []*os.File
	MountProblems []string

	conn   handoffConn
	asking sync.Mutex // one question on conn at a time
}

// Entry is a command that is to run in a sandbox beside the one that it was made for.
type Entry struct {
	Argv []string
	Dir  string
	// Env is laid over the sandbox's environment.
	Env []string
	// Terminal is as in Spec.
	Terminal bool
	// Held is how many files came to be held; Knock sets it.
	Held int
}

// Exit is how the user's command ended: by itself with Code, or by Signal (then Code is 128+Signal).
type Exit struct {
	Code   int
	Signal syscall.Signal
}

// Hook is run in the sandbox while the command runs: a command of its own, with the same environment, or a GET request.
type Hook struct {
	Argv    []string
	URL     string
	Headers []string // "Name: value"
}
