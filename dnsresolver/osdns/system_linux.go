package osdns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	resolvConf = "/etc/resolv.conf"
	// busTime bounds a call on the system's D-Bus.
	busTime = 5 * time.Second

	resolvedName  = "org.freedesktop.resolve1"
	resolvedPath  = "/org/freedesktop/resolve1"
	resolvedIface = "org.freedesktop.resolve1.Manager"
	managerName   = "org.freedesktop.NetworkManager"
	managerPath   = "/org/freedesktop/NetworkManager"
)

// Look sees what there is to choose by. It needs no privileges and changes nothing.
func Look(ctx context.Context) (Seen, error) {
	var s Seen
	path, err := filepath.EvalSymlinks(resolvConf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Missing, path = true, resolvConf
		if to, err := os.Readlink(resolvConf); err == nil { // it points at nothing
			s.Link = absolute(to)
		}
	case err != nil:
		return s, fmt.Errorf("look at the resolver's settings: %w", err)
	case path != resolvConf:
		s.Link = path
	}
	if !s.Missing {
		if s.Content, err = os.ReadFile(path); err != nil {
			return s, fmt.Errorf("look at the resolver's settings: %w", err)
		}
	}
	s.Locked = locked(path)
	s.Resolved = answers(ctx, resolvedName)
	s.NetworkManager = answers(ctx, managerName)
	if program, err := exec.LookPath("resolvconf"); err == nil {
		real, err := filepath.EvalSymlinks(program)
		s.Resolvconf = err == nil && filepath.Base(real) != "resolvectl"
	}
	return s, nil
}

func absolute(link string) string {
	if filepath.IsAbs(link) {
		return filepath.Clean(link)
	}
	return filepath.Join(filepath.Dir(resolvConf), link)
}

// locked says why root could not write the file; empty: it could.
func locked(path string) string {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY != 0 {
		return "is on a file system that is mounted read-only"
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	const immutable, appendOnly = 0x10, 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL of linux/fs.h
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&(immutable|appendOnly) != 0 {
		return "is immutable (see lsattr(1); `sudo chattr -i -a " + path + "` opens it)"
	}
	return ""
}

// answers says whether somebody has this name on the system's bus.
func answers(ctx context.Context, name string) bool {
	has := false
	err := onBus(ctx, func(ctx context.Context, bus *dbus.Conn) error {
		return bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has)
	})
	return err == nil && has
}

// onBus calls f with a connection to the system's bus.
func onBus(ctx context.Context, f func(context.Context, *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("reach the system's D-Bus: %w", err)
	}
	return errors.Join(f(ctx, bus), bus.Close())
}

// System is this machine. All but ReadFile needs root.
func System() Effects {
	path := resolvConf
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return Effects{
		Path: path, ReadFile: os.ReadFile, Remove: os.Remove, Run: run,
		WriteFile: func(path string, content []byte) error {
			if filepath.Dir(path) == filepath.Dir(networkManagerFile) {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
			}
			return writeFile(path, content)
		},
		SetLink: setLink, RevertLink: revertLink, Reload: reload,
	}
}

// reload makes NetworkManager read its configuration and write resolv.conf again.
func reload(ctx context.Context) error {
	return onBus(ctx, func(ctx context.Context, bus *dbus.Conn) error {
		const configuration, dnsFull = uint32(0x1), uint32(0x4) // NM_MANAGER_RELOAD_FLAG_CONF, _DNS_FULL
		return bus.Object(managerName, managerPath).CallWithContext(ctx, managerName+".Reload", 0, configuration|dnsFull).Err
	})
}

// linkServer and linkDomain are D-Bus structs (iay) and (sb) of org.freedesktop.resolve1(5).
type linkServer struct {
	Family  int32
	Address []byte
}

type linkDomain struct {
	Domain      string
	RoutingOnly bool
}

// setLink sets what systemd-resolved asks by way of a device: only names of these domains, and none by other protocols.
func setLink(ctx context.Context, device string, server netip.Addr, search, domains []string) error {
	index, err := indexOf(device)
	if err != nil {
		return err
	}
	family := int32(unix.AF_INET)
	if server.Is6() {
		family = unix.AF_INET6
	}
	var list []linkDomain
	for _, d := range search {
		list = append(list, linkDomain{d, false})
	}
	for _, d := range domains {
		list = append(list, linkDomain{d, true})
	}
	return onBus(ctx, func(ctx context.Context, bus *dbus.Conn) error {
		resolved := bus.Object(resolvedName, resolvedPath)
		for _, call := range []struct {
			method string
			value  any
			old    bool // versions before 240 do not have it
		}{
			{"SetLinkDefaultRoute", false, true}, // before the servers: no other name may come to us
			{"SetLinkDomains", list, false},
			{"SetLinkDNSOverTLS", "no", true},
			{"SetLinkDNSSEC", "no", false}, // the cluster's zones are not signed
			{"SetLinkLLMNR", "no", false},
			{"SetLinkMulticastDNS", "no", false},
			{"SetLinkDNS", []linkServer{{family, server.AsSlice()}}, false},
		} {
			err := resolved.CallWithContext(ctx, resolvedIface+"."+call.method, 0, int32(index), call.value).Err
			if err != nil && (!call.old || !isBusError(err, "org.freedesktop.DBus.Error.UnknownMethod")) {
				return fmt.Errorf("%s: %w", call.method, err)
			}
		}
		return resolved.CallWithContext(ctx, resolvedIface+".FlushCaches", 0).Err
	})
}

// revertLink removes what was set, if the device is still there.
func revertLink(ctx context.Context, device string) error {
	index, err := indexOf(device)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	return onBus(ctx, func(ctx context.Context, bus *dbus.Conn) error {
		err := bus.Object(resolvedName, resolvedPath).CallWithContext(ctx, resolvedIface+".RevertLink", 0, int32(index)).Err
		if isBusError(err, "org.freedesktop.resolve1.NoSuchLink") {
			return nil
		}
		return err
	})
}

func isBusError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// indexOf is a network device's number.
func indexOf(device string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find network device %s: %w", device, err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return 0, fmt.Errorf("find network device %s: %w", device, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("find network device %s: %w", device, err)
	}
	return int(ifr.Uint32()), nil
}

// ChooseHere is the way of this system.
func ChooseHere(s Seen) (Choice, error) { return Choose(s) }
