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
	ranges := e.cluster.Ranges(ctx)
	if len(ranges.Services)+len(ranges.Pods) == 0 {
		e.note(check, "not checked: the cluster's addresses are not known", "")
		return
	}
	routes, err := machineRoutes()
	if err != nil {
		e.note(check, "not checked: "+err.Error(), "")
		return
	}
	if found := conflicts(ranges.Services, ranges.Pods, routes); len(found) > 0 {
		e.not(check, strings.Join(found, "; "), "processes in a sandbox and those that use a proxy are not concerned; for the whole laptop take the VPN or the bridge "+
			"of that route down, or give it another range")
		return
	}
	e.ok(check, "none of this machine's routes takes the cluster's addresses away: "+ranges.How)
}

// conflicts names the routes that meet the cluster's addresses: nobody else has a route to a Service's; one to pods that is no wider
// than their range may be the cluster's own, which leads this machine there.
func conflicts(services, pods []netip.Prefix, routes []Route) []string {
	var found []string
	for _, r := range routes {
		if r.To.Bits() == 0 {
			continue
		}
		for _, c := range services {
			if r.To.Overlaps(c) {
				found = append(found, fmt.Sprintf("the route %s meets the Services' %s", r, c))
			}
		}
		for _, c := range pods {
			if r.To.Overlaps(c) && r.To.Bits() < c.Bits() {
				found = append(found, fmt.Sprintf("the route %s meets the pods' %s", r, c))
			}
		}
	}
	return found
}
