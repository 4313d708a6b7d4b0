//go:build linux

// Command cluster runs the clone's own Kubernetes. See ../../README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/teleswap/teleswap/e2e/cluster"
)

const usage = `usage: cluster [--clone DIR] [--name NAME] [-v] COMMAND

  up                     make the cluster, or find it well; as root
  down                   remove it and every trace of it; as root
  status [-o json]       say how it is; as root
  kubeconfig [--laptop]  print the path of its kubeconfig
  node add NAME [--taint KEY=VALUE:EFFECT]... [--image REF]...
                         give it a further node, or find it well; it gets those of the
                         first node's images, or all; as root
  node remove NAME       take that node away, with its pods; as root
  load-image FILE...     give it images from docker-archive files; as root
  image build FLAGS      write an image from files (see image build --help)
  exec --net laptop|node|NAME [--uid N] [--bind SRC:DST]... -- CMD [ARGS]
                         run a command on one side of the wire; as root

With --name it is another cluster of the clone, beside the first: it shares nothing with
it but the programs, and down without --name takes it, too.
`

// errUsage has been explained to the user already.
var errUsage = errors.New("wrong usage")

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && strings.HasPrefix(args[0], "__") {
		return cluster.Internal(context.Background(), args, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := dispatch(ctx, args, stdout, stderr)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "cluster: stopped; the next up or down cleans what was begun")
		return 130
	default:
		fmt.Fprintln(stderr, "cluster:", err)
		return 1
	}
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("cluster", usage, stderr)
	clone := flags.String("clone", "", "")
	name := flags.String("name", "", "")
	verbose := flags.Bool("v", false, "")
	if err := flags.Parse(args); err != nil {
		return parseError(err)
	}
	args = flags.Args()
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return errUsage
	}
	if args[0] == "image" {
		return imageCommand(ctx, args[1:], stderr)
	}
	names, err := findNames(*clone, *name)
	if err != nil {
		return err
	}
	logger := newLogger(stderr, *verbose)
	rest := args[1:]
	switch args[0] {
	case "up":
		syscall.Umask(0o022) // pods and users read what it makes, whatever the caller's umask
		return asRoot(rest, func() error { return cluster.Up(ctx, names, logger) })
	case "down":
		return asRoot(rest, func() error { return cluster.Down(ctx, names, logger) })
	case "status":
		return status(ctx, names, rest, stdout, stderr)
	case "kubeconfig":
		return kubeconfig(names, rest, stdout, stderr)
	case "load-image":
		if len(rest) == 0 {
			fmt.Fprint(stderr, usage)
			return errUsage
		}
		return asRoot(nil, func() error { return cluster.LoadImages(ctx, names, rest) })
	case "node":
		return nodeCommand(ctx, names, rest, logger, stderr)
	case "exec":
		return execute(names, rest, stderr)
	}
	fmt.Fprintf(stderr, "cluster: no command %q\n%s", args[0], usage)
	return errUsage
}

func findNames(clone, name string) (cluster.Names, error) {
	if clone == "" {
		found, err := cluster.FindClone(".")
		if err != nil {
			return cluster.Names{}, err
		}
		clone = found
	}
	names, err := cluster.NewNames(clone)
	if err != nil || name == "" {
		return names, err
	}
	return names.Another(name)
}

// asRoot runs a verb that takes no arguments, if this machine has what the
// cluster needs.
func asRoot(args []string, do func() error) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	if err := cluster.Preflight(); err != nil {
		return err
	}
	return do()
}

func status(ctx context.Context, names cluster.Names, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("status", usage, stderr)
	output := flags.String("o", "", "")
	if err := flags.Parse(args); err != nil {
		return parseError(err)
	}
	return asRoot(flags.Args(), func() error {
		s, err := cluster.Look(ctx, names)
		if err != nil {
			return err
		}
		if *output == "json" {
			e := json.NewEncoder(stdout)
			e.SetIndent("", "  ")
			return e.Encode(s)
		}
		fmt.Fprintf(stdout, "%s  %s\n", s.State, s.Clone)
		for _, line := range [][2]string{
			{"why", s.Why},
			{"kubeconfig", s.Kubeconfig},
			{"kubeconfig in the laptop's network", s.KubeconfigLaptop},
			{"kubectl", s.Kubectl},
			{"network namespace of the node", s.Node},
			{"network namespace of the laptop", s.Laptop},
			{"logs", s.Logs},
		} {
			if line[1] != "" {
				fmt.Fprintf(stdout, "  %-36s %s\n", line[0], line[1])
			}
		}
		for _, w := range s.Workers {
			state := "up"
			if !w.Up {
				state = "ended"
			}
			fmt.Fprintf(stdout, "  %-36s %s, network namespace %s\n", "node "+w.Name, state, w.Node)
		}
		return nil
	})
}

func kubeconfig(names cluster.Names, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("kubeconfig", usage, stderr)
	laptop := flags.Bool("laptop", false, "")
	if err := flags.Parse(args); err != nil {
		return parseError(err)
	}
	file := names.Kubeconfig()
	if *laptop {
		file = names.KubeconfigLaptop()
	}
	if _, err := os.Stat(file); err != nil {
		return cluster.ErrNotUp
	}
	fmt.Fprintln(stdout, file)
	return nil
}

func execute(names cluster.Names, args []string, stderr io.Writer) error {
	flags := newFlags("exec", usage, stderr)
	var c cluster.Command
	flags.StringVar(&c.Net, "net", "", "")
	flags.IntVar(&c.UID, "uid", -1, "")
	flags.Func("bind", "", func(s string) error {
		c.Binds = append(c.Binds, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return parseError(err)
	}
	c.Argv = flags.Args()
	return asRoot(nil, func() error { return names.Exec(c) })
}

func nodeCommand(ctx context.Context, names cluster.Names, args []string, logger *slog.Logger, stderr io.Writer) error {
	flags := newFlags("node", usage, stderr)
	var node cluster.NewNode
	flags.Func("taint", "", func(s string) error {
		taint, err := cluster.ParseTaint(s)
		node.Taints = append(node.Taints, taint)
		return err
	})
	flags.Func("image", "", func(s string) error {
		node.Images = append(node.Images, s)
		return nil
	})
	if len(args) < 2 || args[0] != "add" && args[0] != "remove" {
		fmt.Fprint(stderr, usage)
		return errUsage
	}
	if err := flags.Parse(args[2:]); err != nil {
		return parseError(err)
	}
	return asRoot(flags.Args(), func() error {
		if args[0] == "remove" {
			return cluster.RemoveNode(ctx, names, logger, args[1])
		}
		syscall.Umask(0o022)
		node.Name = args[1]
		return cluster.AddNode(ctx, names, logger, node)
	})
}

func newFlags(name, text string, stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, text) }
	return flags
}

func parseError(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return errUsage // the flag package has said what is wrong
}
