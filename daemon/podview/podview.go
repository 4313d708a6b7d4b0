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

// split parts NAME=VALUE. A name is never empty and never holds "=", a value may.
func split(kv string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(kv, "=")
	return name, value, ok && name != ""
}

func isLocal(name string) bool {
	return staysLocal[name] || slices.ContainsFunc(localPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}
