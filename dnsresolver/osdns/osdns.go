// Package osdns points the resolver of this machine at a nameserver of ours, and undoes it to the byte. Who owns the machine's
// resolver is looked at first (Seen); the way is a pure choice (Choose); what is then done is data (Change), and so is how to
// undo it (Undo), which the caller writes down before the effect. The effects themselves are a struct of functions. It knows
// neither who answers at the nameserver nor who keeps the record.
//
// However it ends, names outside are not to suffer. In a plain resolv.conf the former nameservers stay behind ours, which listens
// on a loopback address: where nobody listens any more the kernel refuses at once, and the C library asks the next one. What
// systemd-resolved is told belongs to a network device, and goes with it.
package osdns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Way is how a machine's resolver is told of ours.
type Way string

// The ways. The last two are those of other systems than Linux.
const (
	Plain          Way = "resolv.conf"      // the file is written
	Resolved       Way = "systemd-resolved" // over D-Bus, settings of our network device
	Resolvconf     Way = "resolvconf"       // the program of that name merges what it is given
	NetworkManager Way = "NetworkManager"   // a file of its configuration, then a reload
	ResolverFiles  Way = "/etc/resolver"    // macOS: one file a domain
	NRPT           Way = "NRPT"             // Windows: name resolution policy rules
)

// Change is what is to be done to the machine's resolver.
type Change struct {
	Way Way
	// Server is our nameserver, port 53.
	Server netip.Addr
	// Device is our network device, whose settings those of systemd-resolved are.
	Device string `json:",omitempty"`
	// Search are the domains in which names are completed, without a final dot. Their names are asked of Server.
	Search []string `json:",omitempty"`
	// Domains are further domains whose names are asked of Server.
	Domains []string `json:",omitempty"`
}

// limits of a change: nobody has more of them, and root is not to be made to write a book.
const (
	maxDomains = 256
	maxDevice  = 15 // IFNAMSIZ - 1
)

// Check refuses what Apply must not be given by somebody less privileged.
func (c Change) Check() error {
	switch c.Way {
	case Plain, Resolvconf, NetworkManager:
		if !c.Server.IsLoopback() {
			return fmt.Errorf("nameserver %v is not on loopback: it would not refuse at once when nobody listens", c.Server)
		}
	case Resolved, ResolverFiles, NRPT:
		if !c.Server.IsValid() || c.Server.IsUnspecified() || c.Server.IsMulticast() {
			return fmt.Errorf("nameserver %v is no host's address", c.Server)
		}
	default:
		return fmt.Errorf("there is no way %q to set a resolver", c.Way)
	}
	if len(c.Search)+len(c.Domains) > maxDomains {
		return fmt.Errorf("%d domains, at most %d are possible", len(c.Search)+len(c.Domains), maxDomains)
	}
	for _, d := range append(append([]string(nil), c.Search...), c.Domains...) {
		if err := checkDomain(d); err != nil {
			return err
		}
	}
	if len(c.Device) > maxDevice || strings.ContainsFunc(c.Device, func(r rune) bool { return !isWord(r) }) {
		return fmt.Errorf("%q is no name of a network device", c.Device)
	}
	if c.Device == "" && (c.Way == Resolved || c.Way == Resolvconf) {
		return fmt.Errorf("way %q needs a network device", c.Way)
	}
	return nil
}

// checkDomain takes host names only (RFC 1123), with underscores: what is written to files must mean nothing else there.
func checkDomain(d string) error {
	_, ok := dns.IsDomainName(d)
	if !ok || d == "" || d == "." || strings.ContainsFunc(d, func(r rune) bool { return r != '.' && !isWord(r) }) {
		return fmt.Errorf("%q is no domain", d)
	}
	return nil
}

func isWord(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// Undo is how to take a change back, as data. It is complete before the change is begun.
type Undo struct {
	Way Way
	// Files are those that are written, in this order.
	Files []FileUndo `json:",omitempty"`
	// Device is that whose settings or record go.
	Device string `json:",omitempty"`
	// Rules are the names of the policy rules that go.
	Rules []string `json:",omitempty"`
}

// FileUndo is a file before and after a change.
type FileUndo struct {
	Path string
	// Missing says that there was none.
	Missing       bool `json:",omitempty"`
	Before, After []byte
}

// Effects are what is done to a machine. The functions that a way does not need may be nil.
type Effects struct {
	// Path is where the C library looks for its resolver; usually /etc/resolv.conf.
	Path string
	// ReadFile is os.ReadFile.
	ReadFile func(path string) ([]byte, error)
	// WriteFile gives a file its content, and syncs it. The file stays the same one: owner, mode and links are as before. One
	// that is missing is made, for all to read.
	WriteFile func(path string, content []byte) error
	// Remove is os.Remove.
	Remove func(path string) error
	// Run runs a program; an error has what it printed.
	Run func(ctx context.Context, stdin []byte, name string, args ...string) error
	// SetLink sets the resolver of a network device in systemd-resolved; RevertLink removes all that was set. That a device has
	// gone is no error.
	SetLink    func(ctx context.Context, device string, server netip.Addr, search, domains []string) error
	RevertLink func(ctx context.Context, device string) error
	// Reload makes NetworkManager read its configuration again.
	Reload func(ctx context.Context) error
}

// ErrRefused is for a machine whose resolver is not touched; the message says why.
var ErrRefused = errors.New("the resolver of this machine is left alone")

// Plan says how to undo c. It changes nothing.
func Plan(fx Effects, c Change) (Undo, error) {
	if err := c.Check(); err != nil {
		return Undo{}, err
	}
	switch c.Way {
	case Plain:
		return planPlain(fx, c)
	case NetworkManager:
		return planFiles(fx, c, map[string][]byte{networkManagerFile: networkManagerConf(c, formerOf(fx))})
	case ResolverFiles:
		return planFiles(fx, c, resolverFiles(c))
	case NRPT:
		return Undo{Way: c.Way, Rules: ruleNames(c)}, nil
	default:
		return Undo{Way: c.Way, Device: c.Device}, nil
	}
}

// Apply does c, for which Plan made u. After an error Revert is due.
func Apply(ctx context.Context, fx Effects, c Change, u Undo) error {
	err := c.Check()
	for _, f := range u.Files {
		if err == nil {
			err = fx.WriteFile(f.Path, f.After)
		}
	}
	if err == nil {
		switch c.Way {
		case Plain, ResolverFiles: // all is done
		case NetworkManager:
			err = fx.Reload(ctx)
		case Resolved:
			err = fx.SetLink(ctx, c.Device, c.Server, c.Search, c.Domains)
		case Resolvconf:
			err = fx.Run(ctx, resolvconfRecord(c), "resolvconf", "-a", recordName(c.Device))
		case NRPT:
			err = addRules(ctx, fx, c)
		}
	}
	if err != nil {
		return fmt.Errorf("set the resolver of this machine by %s: %w", c.Way, err)
	}
	return nil
}

// Revert takes a change back, whether it was done in full, half or not at all; it may be called again. A file that somebody else
// has written since keeps what they wrote, but for the line that leads to us.
func Revert(ctx context.Context, fx Effects, u Undo) error {
	var errs []error
	for _, f := range u.Files {
		errs = append(errs, f.revert(fx))
	}
	switch u.Way {
	case Plain, ResolverFiles: // all is done
	case NetworkManager:
		errs = append(errs, fx.Reload(ctx))
	case Resolved:
		errs = append(errs, fx.RevertLink(ctx, u.Device))
	case Resolvconf:
		errs = append(errs, fx.Run(ctx, nil, "resolvconf", "-d", recordName(u.Device)))
	case NRPT:
		errs = append(errs, removeRules(ctx, fx, u.Rules))
	default:
		errs = append(errs, fmt.Errorf("there is no way %q to set a resolver", u.Way))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("put the resolver of this machine back (%s): %w", u.Way, err)
	}
	return nil
}
