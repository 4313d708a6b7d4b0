// Package podview decides what of the pod's view the local process gets. Its functions are pure.
package podview

import (
	"slices"
	"strings"
)

// staysLocal are the variables that say who and where the user is, on this machine, and how the terminal talks. With the
// pod's values commands would not be found and files would be looked for where they are not.
var staysLocal = map[string]bool{
	"PATH": true, "HOME": true, "PWD": true, "OLDPWD": true, "USER": true, "LOGNAME": true, "SHELL": true,
	"TERM": true, "TERMINFO": true, "COLORTERM": true, "LANG": true, "LANGUAGE": true,
	"TMPDIR": true, "TMP": true, "TEMP": true, "SHLVL": true, "_": true, "DISPLAY": true, "WAYLAND_DISPLAY": true,
	"DBUS_SESSION_BUS_ADDRESS": true, "EDITOR": true, "PAGER": true, "MAIL": true,
}

// localPrefixes are families of such variables.
var localPrefixes = []string{"LC_", "XDG_", "SSH_", "TELESWAP_"}

// Plan lays the pod's environment over the laptop's. Both are lists of NAME=VALUE, as os.Environ returns them.
//
// A variable that both have gets the pod's value, except those that say who and where the user is (PATH, HOME,
// PWD, USER, SHELL, TERM, LANG, LC_*, TMPDIR, XDG_*, SSH_*, DISPLAY and the like): they keep the laptop's value, and the
// pod's is dropped even where the laptop has none. HOSTNAME is the pod's, and so is TZ, which the pod's
// author has set on purpose. The laptop's other variables stay: the user's tools need them.
//
// The result is in the order of the laptop's, then the pod's; each name comes once, with its last value.
func Plan(local, pod []string) []string {
	var (
		order  []string
		values = map[string]string{}
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
		if name, value, ok := split(kv); ok && !isLocal(name) {
			set(name, value)
		}
	}
	env := make([]string, len(order))
	for i, name := range order {
		env[i] = name + "=" + values[name]
	}
	return env
}

// split parts NAME=VALUE. A name is never empty and never holds "=", a value may.
func split(kv string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(kv, "=")
	return name, value, ok && name != ""
}

func isLocal(name string) bool {
	return staysLocal[name] || slices.ContainsFunc(localPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}
