// Package docker knows Docker's command line: what the words of `docker run` mean, which of them cannot be had in the
// place of a pod, and what must be there before anything is changed. It asks Docker by its own client, so that the user's
// contexts and credentials hold. It knows no Kubernetes and no sandbox.
package docker

import (
	"encoding/csv"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Run is a checked `docker run`, taken apart.
type Run struct {
	// Flags are those that go on to Docker as they came, but for those that are fields here.
	Flags []string
	// settings are those of them that docker create has, too: what the container is.
	settings []string
	// Image and Args are what comes after the flags.
	Image string
	Args  []string

	Entrypoint *string // of --entrypoint; nil: the image's
	Name       string  // of --name
	CIDFile    string  // of --cidfile
	Pull       string  // of --pull: always, missing, never; empty: missing
	Platform   string
	StopSignal string
	UserNS     string // of --userns

	// Interactive and Terminal are -i and -t, Attached says that some stream was named by --attach.
	Interactive, Terminal, Attached bool
	// Env are the names (or NAME=VALUE) that -e sets, EnvFiles the files of --env-file. Both hold over the pod's.
	Env, EnvFiles []string
	// Places are where -v, --mount and --tmpfs put something: there the pod's volumes stay away.
	Places []string
}

// ContainerName is what a session's container is called: as the user wishes, if he does.
func ContainerName(session, wish string) string {
	if wish != "" {
		return wish
	}
	return "teleswap-" + session
}

// UsageError says what is wrong with the words, and what to do.
type UsageError struct{ text string }

func (e *UsageError) Error() string { return e.text }

func refuse(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// IsFlag says whether `docker run` has a flag, by its long name or its letter, and whether it is a switch, which takes no
// value of its own.
func IsFlag(name string) (known, isSwitch bool) {
	if long, short := letters[name]; short {
		name = long
	}
	if _, known := switches[name]; known {
		return true, true
	}
	_, known = valued[name]
	return known, false
}

// Parse takes the words after `docker run` apart. Its errors are *UsageError.
func Parse(words []string) (*Run, error) {
	r := &Run{}
	for len(words) > 0 {
		word := words[0]
		if word == "--" {
			words = words[1:]
			break
		}
		if len(word) < 2 || word[0] != '-' {
			break
		}
		var err error
		if strings.HasPrefix(word, "--") {
			words, err = r.long(words)
		} else {
			words, err = r.short(words)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(words) == 0 || words[0] == "" {
		return nil, refuse("--docker-run needs an image: teleswap swap NAME --docker-run [docker's flags] IMAGE [ARGUMENTS…]")
	}
	if strings.HasPrefix(words[0], "-") {
		return nil, refuse("%q is no image: docker's flags come first, then IMAGE [ARGUMENTS…]", words[0])
	}
	r.Image, r.Args = words[0], words[1:]
	return r, nil
}

// long takes a flag of the form --name, --name=value or --name value.
func (r *Run) long(words []string) (rest []string, err error) {
	name, value, joined := strings.Cut(strings.TrimPrefix(words[0], "--"), "=")
	known, isSwitch := IsFlag(name)
	if len(name) < 2 || letters[name] != "" {
		known = false
	}
	switch {
	case !known && !joined:
		return nil, refuse("docker run has no flag --%s that teleswap knows%s\nif your docker has it, write it as --%s=VALUE", name, near(name), name)
	case isSwitch && !joined:
		value = "true"
	case joined:
	case len(words) < 2:
		return nil, refuse("docker's --%s needs a value", name)
	default:
		value = words[1]
		return words[2:], r.take(name, value, isSwitch, words[:2])
	}
	return words[1:], r.take(name, value, isSwitch, words[:1])
}

// short takes letters: -it, -v VALUE, -vVALUE, -v=VALUE, and switches with one of the others at their end.
func (r *Run) short(words []string) (rest []string, err error) {
	for at := 1; at < len(words[0]); at++ {
		letter := words[0][at : at+1]
		name, known := letters[letter]
		if !known {
			return nil, refuse("docker run has no flag -%s that teleswap knows (in %s)", letter, words[0])
		}
		if _, isSwitch := switches[name]; isSwitch {
			value, form := "true", "-"+letter
			if v, joined := strings.CutPrefix(words[0][at+1:], "="); joined {
				value, form, at = v, form+"="+v, len(words[0])
			}
			if err := r.take(name, value, true, []string{form}); err != nil {
				return nil, err
			}
			continue
		}
		value := strings.TrimPrefix(words[0][at+1:], "=")
		if at+1 < len(words[0]) {
			return words[1:], r.take(name, value, false, []string{"-" + words[0][at:]})
		}
		if len(words) < 2 {
			return nil, refuse("docker's -%s needs a value", letter)
		}
		return words[2:], r.take(name, words[1], false, []string{"-" + letter, words[1]})
	}
	return words[1:], nil
}

// take notes a flag. as is how it goes on to Docker.
func (r *Run) take(name, value string, isSwitch bool, as []string) error {
	on := true
	if isSwitch {
		var err error
		if on, err = strconv.ParseBool(value); err != nil {
			return refuse("docker's --%s is a switch: %q is neither true nor false", name, value)
		}
	}
	if why := refused[name]; why != "" && on && (name != "restart" || value != "no") {
		return refuse("docker's --%s cannot be used in a swap: %s", name, why)
	}
	switch name {
	case "entrypoint":
		r.Entrypoint = &value
		return nil
	case "cidfile":
		r.CIDFile = value
		return nil
	case "pull":
		if value != "always" && value != "missing" && value != "never" {
			return refuse("docker's --pull is always, missing or never, not %q", value)
		}
		r.Pull = value
		return nil
	case "detach", "publish-all", "restart", "help":
		return nil // switched off
	case "name":
		r.Name = value
	case "platform":
		r.Platform = value
	case "userns":
		r.UserNS = value
	case "stop-signal":
		r.StopSignal = value
	case "interactive":
		r.Interactive = on
	case "tty":
		r.Terminal = on
	case "attach":
		r.Attached = true
	case "env":
		r.Env = append(r.Env, value)
	case "env-file":
		r.EnvFiles = append(r.EnvFiles, value)
	case "volume", "tmpfs", "mount":
		if place := placeOf(name, value); place != "" {
			r.Places = append(r.Places, place)
		}
	}
	if why := wrongValue(name, value); why != "" {
		return refuse("docker's --%s %s: %s", name, value, why)
	}
	r.Flags = append(r.Flags, as...)
	if _, of := attaching[name]; !of {
		r.settings = append(r.settings, as...)
	}
	return nil
}

// containerName is what docker takes for a name (its reference, "docker run --name").
var containerName = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// wrongValue says why a value cannot be, of those that docker looks at only once it has the image; empty where it can.
func wrongValue(flag, value string) string {
	switch flag {
	case "name":
		if !containerName.MatchString(value) {
			return "a container's name is of two or more letters, digits, _, . and -, and begins with one of the first two"
		}
	case "volume":
		switch parts := strings.Split(value, ":"); {
		case len(parts) > 3:
			return "it has more parts than [SOURCE:]PATH[:OPTIONS]"
		case !path.IsAbs(placeOf(flag, value)):
			return "the PATH in the container must be absolute, in [SOURCE:]PATH[:OPTIONS]"
		}
	}
	return ""
}

// placeOf is where in the container a flag puts something; empty where that cannot be told.
func placeOf(flag, value string) string {
	switch flag {
	case "tmpfs": // PATH[:OPTIONS]
		place, _, _ := strings.Cut(value, ":")
		return place
	case "volume": // [SOURCE:]PATH[:OPTIONS]
		parts := strings.Split(value, ":")
		if len(parts) == 1 {
			return parts[0]
		}
		return parts[1]
	}
	parts, _ := csv.NewReader(strings.NewReader(value)).Read() // what is no CSV docker refuses itself
	for _, part := range parts {
		key, place, _ := strings.Cut(part, "=")
		switch strings.ToLower(key) {
		case "target", "dst", "destination":
			return place
		}
	}
	return ""
}

// near is a question with the flag that comes nearest; empty where none does.
func near(name string) string {
	if len(name) < 3 {
		return ""
	}
	best := ""
	for _, all := range []map[string]struct{}{switches, valued} {
		for flag := range all {
			comes := strings.HasPrefix(flag, name) || strings.HasPrefix(name, flag) && len(flag) > 3
			// Of several the shortest, and of those the first.
			if comes && (best == "" || len(flag) < len(best) || len(flag) == len(best) && flag < best) {
				best = flag
			}
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean --" + best + "?"
}
