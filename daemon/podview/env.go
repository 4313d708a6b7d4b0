package podview

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// EnvOptions are the user's wishes for the process's environment. The zero value takes all of the pod's and adds nothing.
type EnvOptions struct {
	// Include and Exclude are globs (path.Match, but * takes a / too) of names of the pod's variables. Empty Include: all.
	// What Exclude matches is not taken, whatever Include says.
	Include, Exclude []string
	// Set are lists of NAME=VALUE that are laid over everything else, later ones over earlier ones.
	Set []string
	// InContainer says that the process has a container's environment, not the laptop's: of the pod's only what says where
	// in its file system the process is (PATH, HOME, PWD), and on which terminal, is left out.
	InContainer bool
	// One is the longest NAME=VALUE in bytes that the kernel gives to a process; zero: any. Longer ones are left out.
	One int
}

// Environment is what came of laying the pod's variables over the laptop's.
type Environment struct {
	// All is the process's environment, NAME=VALUE.
	All []string
	// Pod are those of them that are the pod's or the user's wish, sorted by name, and also those of Left.
	Pod []string
	// Left are the names of variables that are longer than the kernel allows.
	Left []string
}

// CheckGlobs says which of the globs is none. The error names it.
func CheckGlobs(globs []string) error {
	for _, g := range globs {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			return fmt.Errorf("%q is no glob: * stands for any characters, ? for one, [a-z] for one of a range", g)
		}
	}
	return nil
}

// matches says whether one of the globs takes a name. path.Match keeps * from taking a slash, which in a name
// means nothing.
func matches(globs []string, name string) bool {
	plain := strings.NewReplacer("/", "\x00")
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, err := path.Match(plain.Replace(g), plain.Replace(name))
		return ok && err == nil
	})
}

// stays says whether the pod's value of a variable is dropped.
func (o *EnvOptions) stays(name string) bool {
	if o.InContainer {
		return containersOwn[name]
	}
	return isLocal(name)
}

// containersOwn are what the image and the runtime say of a container.
var containersOwn = map[string]bool{
	"PATH": true, "HOME": true, "HOSTNAME": true, "TERM": true, "PWD": true, "OLDPWD": true, "SHLVL": true,
}

// Plan lays the pod's environment over the laptop's, and the user's wishes over both. local and pod are lists of
// NAME=VALUE, as os.Environ returns them; values are bytes, and pass as they are.
//
// A variable that laptop and pod have gets the pod's value, except those that say who and where the user is (PATH, HOME,
// PWD, USER, SHELL, TERM, LANG, LC_*, TMPDIR, XDG_*, SSH_*, DISPLAY and the like): they keep the laptop's value, and the
// pod's is dropped even where the laptop has none. HOSTNAME is the pod's, and so is TZ, which the pod's
// author has set on purpose. The laptop's other variables stay: the user's tools need them. One of the pod's
// that Include and Exclude do not let through is as if the pod did not have it. Set holds for every name.
//
// The result is in the order of the laptop's, then the pod's, then Set; each name comes once, with its last value.
func Plan(local, pod []string, o EnvOptions) Environment {
	var (
		e        Environment
		order    []string
		values   = map[string]string{}
		fromAfar = map[string]bool{}
	)
	set := func(name, value string) {
		if _, known := values[name]; !known {
			order = append(order, name)
		}
		values[name] = value
	}
	for _, kv := range local {
		if name, value, ok := split(kv); ok {
			set(name, value)
		}
	}
	for _, kv := range pod {
		name, value, ok := split(kv)
		if ok && !o.stays(name) && (len(o.Include) == 0 || matches(o.Include, name)) && !matches(o.Exclude, name) {
			set(name, value)
			fromAfar[name] = true
		}
	}
	for _, kv := range o.Set {
		if name, value, ok := split(kv); ok {
			set(name, value)
			fromAfar[name] = true
		}
	}
	for _, name := range order {
		kv := name + "=" + values[name]
		if fromAfar[name] {
			e.Pod = append(e.Pod, kv)
		}
		if o.One > 0 && len(kv) > o.One {
			e.Left = append(e.Left, name)
			continue
		}
		e.All = append(e.All, kv)
	}
	slices.Sort(e.Pod)
	slices.Sort(e.Left)
	return e
}

// Local are those of the laptop's variables that stay its own in a pod's place (see Plan): who and where the user is.
func Local(env []string) []string {
	var own []string
	for _, kv := range env {
		if name, _, ok := split(kv); ok && isLocal(name) {
			own = append(own, kv)
		}
	}
	return own
}

// pointer is what each argument and variable costs beside its bytes: its address (execve(2)).
const pointer = 8

// Fits says whether argv and env may be given to a new process that has room for limit bytes of them (execve(2),
// "Limits on size of arguments and environment"). The error names the largest variables, and no value.
func Fits(argv, env []string, limit int) error {
	size := 0
	for _, s := range slices.Concat(argv, env) {
		size += len(s) + 1 + pointer
	}
	if limit <= 0 || size <= limit {
		return nil
	}
	largest := slices.Clone(env)
	slices.SortStableFunc(largest, func(a, b string) int { return len(b) - len(a) })
	var names []string
	for _, kv := range largest[:min(3, len(largest))] {
		name, _, _ := split(kv)
		names = append(names, fmt.Sprintf("%s (%d KiB)", name, len(kv)>>10))
	}
	return fmt.Errorf("environment and arguments of the process are %d bytes, and the kernel takes %d\n"+
		"leave variables out with --env-exclude, or raise `ulimit -s`; the largest: %s", size, limit, strings.Join(names, ", "))
}
