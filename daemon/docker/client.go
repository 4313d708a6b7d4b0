package docker

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// Client is Docker's own client on this machine, for a daemon of this machine.
type Client struct {
	// Path is the client's, Program that of this program, which containers get for their start.
	Path, Program string

	// remaps says that the daemon's containers are in a user namespace that is not the machine's.
	remaps bool
}

// Image is what is needed of an image's configuration.
type Image struct {
	ID         string `json:"Id"`
	Os         string
	Config     ImageConfig
	Repository string `json:"-"`
}

// ImageConfig is the part of it that says what runs.
type ImageConfig struct {
	Entrypoint, Cmd []string
	Volumes         map[string]struct{}
	StopSignal      string
}

// Find looks for Docker, and says in one message what keeps it from being used. Nothing is changed.
func Find(ctx context.Context) (*Client, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("--docker-run needs Linux: Docker's containers run in a virtual machine here, which has no way to the swap\n" +
			"run the program itself: teleswap swap NAME --run COMMAND")
	}
	path, err := exec.LookPath("docker")
	if err != nil {
		return nil, errors.New("there is no docker in your PATH: install it (https://docs.docker.com/engine/install/), " +
			"or run the program itself: teleswap swap NAME --run COMMAND")
	}
	c := &Client{Path: path}
	if c.Program, err = program(); err != nil {
		return nil, err
	}
	if err := c.checkDaemon(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// program is this program's path. A container has none of the libraries that it might be linked to.
func program() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("this build of teleswap is linked to libraries that containers do not have, and --docker-run puts it into one\n" +
				"take a release, or build it with CGO_ENABLED=0 (`make build` does)")
		}
	}
	return path, nil
}

// checkDaemon asks who serves.
func (c *Client) checkDaemon(ctx context.Context) error {
	host, err := c.output(ctx, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
	if err != nil {
		return fmt.Errorf("ask docker for its daemon's address: %w", err)
	}
	host = strings.TrimSpace(host)
	if about, err := c.output(ctx, "--version"); host == "" && err == nil && strings.Contains(about, "podman") {
		return errPodman
	}
	socket, local := strings.CutPrefix(host, "unix://")
	if !local {
		return fmt.Errorf("docker's daemon is on another machine (%s): the container would not be on this one, where the swap's network is\n"+
			"unset DOCKER_HOST, or choose a context of this machine: docker context use default", host)
	}
	if err := reach(ctx, socket); err != nil {
		return err
	}
	text, err := c.output(ctx, "info", "--format", "{{json .}}")
	if err != nil {
		return fmt.Errorf("ask docker's daemon who it is: %w", err)
	}
	var info struct {
		OperatingSystem, OSType       string
		ServerErrors, SecurityOptions []string
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return fmt.Errorf("ask docker's daemon who it is: %w; is %s Docker's own client?", err, c.Path)
	}
	switch {
	case len(info.ServerErrors) > 0:
		return fmt.Errorf("docker's daemon does not answer: %s", strings.Join(info.ServerErrors, "; "))
	case info.OperatingSystem == "Docker Desktop":
		return errors.New("Docker Desktop runs its containers in a virtual machine, which has no way to the swap's network\n" + //nolint:staticcheck // a name
			"use Docker Engine beside it: docker context use default")
	case info.OSType != "linux":
		return fmt.Errorf("docker's daemon runs containers of %s; the swap's network is Linux's", info.OSType)
	}
	parts, err := c.output(ctx, "version", "--format", "{{json .Server.Components}}")
	if err != nil {
		return fmt.Errorf("ask docker's daemon who it is: %w", err)
	}
	if strings.Contains(parts, "Podman") {
		return errPodman
	}
	c.remaps = slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return o == "name=userns" || strings.HasPrefix(o, "name=userns,") })
	return nil
}

var errPodman = errors.New("docker is Podman here, and --docker-run is made for Docker Engine's containers\n" +
	"install Docker Engine beside it (https://docs.docker.com/engine/install/), or run the program itself: teleswap swap NAME --run COMMAND")

// reach connects to the daemon's socket, because that says most plainly why it does not answer.
func reach(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not use docker: its socket %s is closed to you\n"+
			"join its group (sudo usermod -aG docker $USER, then log in again), or use rootless docker", socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("docker is not running: nobody listens at %s\nstart it: sudo systemctl start docker", socket)
	}
	return fmt.Errorf("reach docker at %s: %w", socket, err)
}

// nowhere is an image that nobody has: .invalid is no domain (RFC 2606).
const (
	nowhereHost = "teleswap.invalid"
	nowhere     = nowhereHost + "/none:none"
)

// Check has docker itself look at the flags, as far as it does before it looks for the image: of an image that there is not it makes no
// container, so nothing is changed. What it finds wrong is a *UsageError. A container that has the wished name already is found, too.
func (c *Client) Check(ctx context.Context, r *Run) error {
	if c.remaps && r.UserNS != "host" {
		return refuse("docker's daemon puts containers into a user namespace (userns-remap), from where the swap's network cannot be entered\n" +
			"have this one be without: --docker-run --userns=host …, or run the program itself: teleswap swap NAME --run COMMAND")
	}
	words := append([]string{"create", "--pull", "never", "--network", "container:teleswap-none", "--entrypoint", "/none"}, r.settings...)
	_, err := c.output(ctx, append(words, nowhere)...)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !strings.Contains(err.Error(), nowhereHost) {
		// What comes after the first line is the way to its help.
		said, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "docker create: "), "\n")
		return refuse("docker does not take the flags: %s\nnothing is changed; `docker run --help` says what they can be", said)
	}
	if r.Name == "" {
		return nil
	}
	if _, err := c.output(ctx, "container", "inspect", "--format", "{{.Id}}", "--", r.Name); err == nil {
		return refuse("docker has a container %s already: remove it (docker rm %s), or take another --name", r.Name, r.Name)
	}
	return nil
}

// Image is the image's configuration. One that is not here is pulled first; progress gets what docker says meanwhile.
func (c *Client) Image(ctx context.Context, r *Run, progress io.Writer) (*Image, error) {
	if r.Pull != "always" {
		im, err := c.inspect(ctx, r.Image)
		if err == nil {
			return im, checkRuns(r, im)
		}
		if r.Pull == "never" {
			return nil, fmt.Errorf("image %s is not here, and --pull never forbids to get it: %w", r.Image, err)
		}
	}
	args := []string{"pull"}
	if r.Platform != "" {
		args = append(args, "--platform", r.Platform)
	}
	cmd := exec.CommandContext(ctx, c.Path, append(args, "--", r.Image)...) //nolint:gosec // docker
	var said LastWords
	cmd.Stdout, cmd.Stderr = progress, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("image %s cannot be had: docker pull says: %s\ncheck its name, or log in: docker login", r.Image, said.Or(err))
	}
	im, err := c.inspect(ctx, r.Image)
	if err != nil {
		return nil, fmt.Errorf("look at image %s: %w", r.Image, err)
	}
	return im, checkRuns(r, im)
}

func (c *Client) inspect(ctx context.Context, image string) (*Image, error) {
	text, err := c.output(ctx, "image", "inspect", "--", image)
	if err != nil {
		return nil, err
	}
	var all []Image
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 1 {
		return nil, fmt.Errorf("read what docker says of image %s: %w", image, errors.Join(err, errors.New("not one image")))
	}
	return &all[0], nil
}

func checkRuns(r *Run, im *Image) error {
	if im.Os != "" && im.Os != "linux" {
		return refuse("image %s is for %s; the swap's network is Linux's", r.Image, im.Os)
	}
	if len(r.Argv(im)) == 0 {
		return refuse("image %s says not what to run: write the command after it", r.Image)
	}
	return nil
}

// Argv is what the container runs, as docker makes it of image and flags: an entrypoint of the user's takes the image's
// command away, too.
func (r *Run) Argv(im *Image) []string {
	entrypoint, args := im.Config.Entrypoint, r.Args
	if r.Entrypoint != nil {
		entrypoint = nil
		if *r.Entrypoint != "" {
			entrypoint = []string{*r.Entrypoint}
		}
	} else if len(args) == 0 {
		args = im.Config.Cmd
	}
	return append(append([]string(nil), entrypoint...), args...)
}

// output runs a command of docker's; its error has what docker said.
func (c *Client) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Path, args...) //nolint:gosec // docker
	var out strings.Builder
	var said LastWords
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("docker %s: %s", args[0], said.Or(err))
	}
	return out.String(), nil
}
