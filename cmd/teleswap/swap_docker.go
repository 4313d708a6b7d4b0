package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/docker"
	"github.com/teleswap/teleswap/daemon/runner"
)

// addDockerFlag is for the help: splitRun has taken it off the line.
func addDockerFlag(f *pflag.FlagSet) {
	f.String("docker-run", "", "what docker run is to run, with its flags; takes the rest of the line")
}

// container is a checked wish for a command that docker runs.
type container struct {
	client  *docker.Client
	run     *docker.Run
	image   *docker.Image
	own     []string // names of variables that the user has set for it
	sockets string   // the runtime directory
}

// checkContainer finds docker and the image before anything is changed, where the command is docker run's: then the request says
// so, and the wishes have the container.
func (a *app) checkContainer(ctx context.Context, req *api.SwapRequest, w *wishes) error {
	if !a.inContainer {
		return nil
	}
	run, err := docker.Parse(req.GetCommand())
	if err != nil {
		return dockerError(err)
	}
	if run.Terminal && run.Interactive && !term.IsTerminal(int(a.in.Fd())) {
		return usage("docker's -i and -t need a terminal, and standard input is none: leave -t away")
	}
	if req.NoSandbox && hasSandbox {
		return usage("--no-sandbox and --docker-run: a container has a network of its own; leave one of them away")
	}
	req.NoSandbox = false
	c := &container{run: run, sockets: a.paths.Dir}
	if c.own, err = ownVariables(run); err != nil {
		return err
	}
	if c.client, err = docker.Find(ctx); err != nil {
		return err
	}
	if err = c.client.Check(ctx, run); err != nil {
		return dockerError(err)
	}
	if c.image, err = c.client.Image(ctx, run, a.err); err != nil {
		return dockerError(err)
	}
	req.InContainer, req.ContainerName = true, run.Name
	// Status shows it; docker's flags may hold what is nobody's business.
	req.Command = append([]string{"docker", "run", run.Image}, run.Args...)
	w.container, w.env.InContainer = c, true
	return nil
}

// dockerError makes wrong words a wrong usage.
func dockerError(err error) error {
	var wrong *docker.UsageError
	if errors.As(err, &wrong) {
		return &exitError{statusUsage, err}
	}
	return err
}

// ownVariables are the names that docker's flags set: they hold over the pod's.
func ownVariables(run *docker.Run) ([]string, error) {
	all := run.Env
	for _, path := range run.EnvFiles {
		set, err := readEnvFile(path, os.LookupEnv)
		if err != nil {
			return nil, usage("docker's --env-file %s: %v", path, err)
		}
		all = append(all, set...)
	}
	names := make([]string, 0, len(all))
	for _, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		names = append(names, name)
	}
	return names, nil
}

// start runs the container in the session's network.
func (c *container) start(ctx context.Context, spec runner.Spec, stdio runner.Stdio) (process, error) {
	started, err := runner.StartContainer(ctx, runner.ContainerSpec{
		Sandbox: spec, Client: c.client, Run: c.run, Image: c.image, Own: c.own, Dir: c.sockets,
	}, stdio)
	if err != nil {
		return nil, err
	}
	return started, nil
}
