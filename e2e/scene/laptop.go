package scene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Laptop is where the command line runs. With the embedded cluster it is a network
// namespace joined to the cluster's and a mount namespace with a resolv.conf of its
// own; with the user's own cluster it is the machine as it is.
type Laptop struct {
	net    netns
	holder *exec.Cmd // its mount namespace is the laptop's; nil: the machine's own
	hung   io.Closer // closed by the end of this process at the latest: ends the holder
	// Outside is the world beyond the laptop; nil with a cluster of the user's own.
	Outside *Outside
}

// User is who a command runs as.
type User struct {
	UID int
	// Groups are further groups' numbers, with commas between them.
	Groups string
}

const (
	// userName is what the users of all worlds call themselves.
	userName = "dev"
	// firstUID is the first of their numbers, one a world.
	firstUID = 60001
	// maxWorlds is more than a run has.
	maxWorlds = 1000
)

// Root runs commands as the machine's administrator.
var root = User{}

func (l *Lab) setUpLaptop(ctx context.Context) error {
	lap := &Laptop{net: netns{l.laptopNet}}
	l.Laptop = lap
	if lap.net.path == "" {
		return nil
	}
	outside, err := newOutside(ctx, lap.net)
	if err != nil {
		return err
	}
	lap.Outside = outside
	resolv := filepath.Join(l.Dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+outside.Resolver+"\n"), 0o644); err != nil {
		return fmt.Errorf("write the laptop's resolv.conf: %w", err)
	}
	passwd, err := l.passwd()
	if err != nil {
		return err
	}
	return lap.hold(ctx, l.Dir, resolv, passwd)
}

// passwd is a file of users in which those of all worlds are: fusermount3 serves nobody else.
func (l *Lab) passwd() (path string, err error) {
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", fmt.Errorf("read the machine's users: %w", err)
	}
	for n := range maxWorlds {
		uid := firstUID + n
		users = fmt.Appendf(users, "%s:x:%d:%d::/nonexistent:/bin/sh\n", userName, uid, uid)
	}
	path = filepath.Join(l.Dir, "passwd")
	if err := os.WriteFile(path, users, 0o644); err != nil {
		return "", fmt.Errorf("write the laptop's users: %w", err)
	}
	return path, nil
}

const holdScript = `set -e
mount --bind "$2" /etc/resolv.conf
mount --bind "$3" /etc/passwd
touch "$1/ready"
exec cat`

// hold starts the process that keeps the laptop's mount namespace.
func (lap *Laptop) hold(ctx context.Context, dir, resolv, passwd string) error {
	cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", holdScript, "sh", dir, resolv, passwd)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("make the laptop's mount namespace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make the laptop's mount namespace: %w", err)
	}
	lap.holder, lap.hung = cmd, stdin
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			return nil
		}
		if p, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid)); err != nil || strings.Contains(string(p), ") Z ") {
			return fmt.Errorf("make the laptop's mount namespace: %s", stderr.String())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("make the laptop's mount namespace: %w: %s", ctx.Err(), stderr.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// command is argv run on the laptop by the user, in dir, with exactly this environment.
// Every program in between replaces itself, so the command's pid is argv's own.
func (lap *Laptop) command(u User, dir string, env []string, argv ...string) *exec.Cmd {
	if lap.holder == nil {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = dir, env
		return cmd
	}
	pid := strconv.Itoa(lap.holder.Process.Pid)
	args := []string{"--net=" + lap.net.path, "--mount=/proc/" + pid + "/ns/mnt", "--wdns=" + dir, "--"}
	if u.UID != root.UID {
		uid, groups := strconv.Itoa(u.UID), "--clear-groups"
		if u.Groups != "" {
			groups = "--groups=" + u.Groups
		}
		args = append(args, "setpriv", "--reuid="+uid, "--regid="+uid, groups, "--inh-caps=-all", "--")
	}
	cmd := exec.Command("nsenter", append(args, argv...)...)
	cmd.Env = env
	return cmd
}

// Dial opens a TCP connection from the laptop to a numeric address.
func (lap *Laptop) Dial(address string) (net.Conn, error) { return lap.net.dial(address) }

func (lap *Laptop) close() error {
	var errs []error
	if lap.holder != nil {
		errs = append(errs, lap.hung.Close(), lap.holder.Wait())
	}
	if lap.Outside != nil {
		errs = append(errs, lap.Outside.close())
	}
	return errors.Join(errs...)
}
