package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
)

// errNoRoutes says that this system's routes are not known.
var errNoRoutes = errors.New("routes are not looked at on " + runtime.GOOS)

// Route is one of this machine's, but for default routes.
type Route struct {
	To     netip.Prefix
	Device string
	Via    netip.Addr // not valid: none
}

func (r Route) String() string {
	text := r.To.String()
	if r.Via.IsValid() {
		text += " via " + r.Via.String()
	}
	return text + " dev " + r.Device
}

// checkRoutes finds this machine's routes that take the cluster's addresses away, or would lose theirs to it. That matters to who
// has the whole laptop in the cluster; a sandbox has routes of its own.
func (e *Examination) checkRoutes(ctx context.Context) {
	const check = "routes"
	if !e.answers {
		e.note(check, noServer, "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	ranges, err := e.cluster.ServiceCIDRs(ctx)
	if err != nil || len(ranges) == 0 {
		e.note(check, "not checked: the cluster does not tell its Services' range", "")
		return
	}
	routes, err := machineRoutes()
	if err != nil {
		e.note(check, "not checked: "+err.Error(), "")
		return
	}
	if found := conflicts(ranges, routes); len(found) > 0 {
		e.not(check, strings.Join(found, "; "), "processes in a sandbox and those that use a proxy are not concerned; for the whole laptop take the VPN or the bridge "+
			"of that route down, or give it another range")
		return
	}
	e.ok(check, fmt.Sprintf("none of this machine's routes meets the Services' %s", joined(ranges)))
}

// conflicts names the routes that meet one of the ranges.
func conflicts(ranges []netip.Prefix, routes []Route) []string {
	var found []string
	for _, r := range routes {
		for _, c := range ranges {
			if r.To.Bits() > 0 && r.To.Overlaps(c) {
				found = append(found, fmt.Sprintf("the route %s meets the cluster's %s", r, c))
			}
		}
	}
	return found
}

func joined(prefixes []netip.Prefix) string {
	texts := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}
