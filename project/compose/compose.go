// Package compose makes sessions of a compose file's services: of those that say by x-teleswap which workload of
// the cluster they stand for. It reads files by compose's own library, so that interpolation, .env,
// extends, include and env_file are what `docker compose` makes of them; it knows no Docker and no cluster.
package compose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/teleswap/teleswap/project"
)

// Key is the key of a service that makes a session of it. Its value has the keys of a session in a project file.
const Key = "x-teleswap"

// Read reads compose files, the later ones over the first, as `docker compose -f` does; environ is what variables in them stand for.
// Errors: project.Problems, and compose's own.
func Read(ctx context.Context, files, environ []string, rules project.Rules) (*project.File, error) {
	options, err := cli.NewProjectOptions(files, cli.WithEnv(environ), cli.WithEnvFiles(), cli.WithDotEnv)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(files, ", "), err)
	}
	loaded, err := options.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n`docker compose -f %s config` checks it", strings.Join(files, ", "), err, files[0])
	}
	out := &project.File{Path: strings.Join(files, ", ")}
	var problems project.Problems
	for _, name := range loaded.ServiceNames() {
		service := loaded.Services[name]
		value, named := service.Extensions[Key]
		if !named {
			continue
		}
		s, err := session(loaded, service, value, rules)
		var wrong project.Problems
		if errors.As(err, &wrong) {
			problems = append(problems, wrong...)
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Sessions = append(out.Sessions, s)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if len(out.Sessions) == 0 {
		return nil, fmt.Errorf("%s: no service has %s, so there is nothing to swap; write it below a service: %s: {target: deployment/NAME}",
			out.Path, Key, Key)
	}
	return out, project.PublishedTwice(out.Sessions, rules)
}

func session(loaded *types.Project, service types.ServiceConfig, value any, rules project.Rules) (project.Session, error) {
	e := project.Extension{
		Name: service.Name, Path: []string{"services", service.Name, Key}, Value: value, Dir: loaded.WorkingDir,
	}
	// Of several files it is the last that says what holds.
	for _, file := range slices.Backward(loaded.ComposeFiles) {
		data, err := os.ReadFile(file)
		if err != nil {
			return project.Session{}, err
		}
		e.File, e.Data = file, data
		if strings.Contains(string(data), Key) {
			break
		}
	}
	s, err := e.Session(rules)
	if err != nil {
		return s, err
	}
	if s.Image != "" {
		return s, project.Problems{s.Wrong("image", "the image is the service's; leave it out")}
	}
	var problems project.Problems
	if len(s.Command) == 0 { // with one the service runs on this machine, without its container
		s.Image = imageOf(loaded, service)
		flags, wrong := dockerFlags(loaded, service)
		for _, text := range wrong {
			problems = append(problems, s.Wrong(Key, "%s", text))
		}
		s.Docker = append(flags, s.Docker...)
		entrypoint := service.Entrypoint
		if entrypoint != nil {
			s.Docker = append(s.Docker, "--entrypoint="+strings.Join(entrypoint[:min(1, len(entrypoint))], ""))
			s.Command = append(s.Command, entrypoint[min(1, len(entrypoint)):]...)
		}
		s.Command = append(s.Command, service.Command...)
	}
	s.Env = append(variables(service.Environment), s.Env...)
	if len(s.Publish) == 0 {
		s.Publish = ports(service.Ports)
		for _, p := range s.Publish {
			if _, err := rules.Publish(p); err != nil {
				problems = append(problems, s.Wrong("ports", "%v; say by publish below %s what it should be", err, Key))
			}
		}
	}
	if len(problems) > 0 {
		return s, problems
	}
	return s, nil
}

// imageOf is the service's image; of one that compose builds, the name that compose gives it.
func imageOf(loaded *types.Project, service types.ServiceConfig) string {
	if service.Image != "" {
		return service.Image
	}
	return loaded.Name + "-" + service.Name
}

func variables(environment types.MappingWithEquals) []string {
	all := make([]string, 0, len(environment))
	for name, value := range environment {
		if value != nil {
			name += "=" + *value
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// ports are the service's as --publish has them. Without an address they are this machine's alone: the cluster
// comes by the target's Services.
func ports(all []types.ServicePortConfig) []string {
	var texts []string
	for _, p := range all {
		text := p.Published + ":" + strconv.FormatUint(uint64(p.Target), 10)
		if p.Published == "" {
			text = "0" + text
		}
		switch {
		case strings.Contains(p.HostIP, ":"):
			text = "[" + p.HostIP + "]:" + text
		case p.HostIP != "":
			text = p.HostIP + ":" + text
		}
		if p.Protocol == "udp" {
			text += "/udp"
		}
		texts = append(texts, text)
	}
	return texts
}

// dockerFlags are what makes docker's container the service's. Its network, names and hostname are the pod's.
func dockerFlags(loaded *types.Project, s types.ServiceConfig) (flags, wrong []string) {
	flag := func(name, value string) {
		if value != "" {
			flags = append(flags, "--"+name+"="+value)
		}
	}
	yes := func(name string, value bool) {
		if value {
			flags = append(flags, "--"+name)
		}
	}
	each := func(name string, values []string) {
		for _, v := range values {
			flag(name, v)
		}
	}
	yes("rm", true)
	for _, v := range s.Volumes {
		text := v.Target
		switch v.Type {
		case types.VolumeTypeBind:
			text = v.Source + ":" + text
		case types.VolumeTypeVolume:
			if v.Source != "" {
				text = volumeName(loaded, v.Source) + ":" + text
			}
		case types.VolumeTypeTmpfs:
			flag("tmpfs", text)
			continue
		default:
			wrong = append(wrong, fmt.Sprintf("a volume of type %s (%s) cannot be carried over; a command below %s runs without the container",
				v.Type, v.Target, Key))
			continue
		}
		if v.ReadOnly {
			text += ":ro"
		}
		flag("volume", text)
	}
	each("tmpfs", s.Tmpfs)
	flag("user", s.User)
	each("group-add", s.GroupAdd)
	flag("workdir", s.WorkingDir)
	flag("platform", s.Platform)
	yes("read-only", s.ReadOnly)
	yes("init", s.Init != nil && *s.Init)
	yes("privileged", s.Privileged)
	each("cap-add", s.CapAdd)
	each("cap-drop", s.CapDrop)
	each("security-opt", s.SecurityOpt)
	flag("stop-signal", s.StopSignal)
	if s.ShmSize > 0 {
		flag("shm-size", strconv.FormatInt(int64(s.ShmSize), 10))
	}
	return flags, wrong
}

// volumeName is docker's name of a volume that the file names.
func volumeName(loaded *types.Project, source string) string {
	if v, ok := loaded.Volumes[source]; ok && v.Name != "" {
		return v.Name
	}
	return source
}
