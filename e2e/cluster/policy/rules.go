package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Table is the name of the table in the node's network namespace.
const Table = "teleswap_policy"

// matches reports whether labels fit; an operator that the API does not have fits nothing.
func (s selector) matches(labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		if got, has := labels[key]; !has || got != want {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		value, has := labels[e.Key]
		var fits bool
		switch e.Operator {
		case "In":
			fits = has && slices.Contains(e.Values, value)
		case "NotIn":
			fits = !has || !slices.Contains(e.Values, value)
		case "Exists":
			fits = has
		case "DoesNotExist":
			fits = !has
		}
		if !fits {
			return false
		}
	}
	return true
}

// addrs are the addresses that are the pod's own now, one a family. A pod that has ended may have
// left them to another.
func (p pod) addrs() []netip.Addr {
	if p.Spec.HostNetwork || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(a.IP); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// family is nft's word before an address.
func family(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// named is the number of the pod's port of that name; zero: it has none.
func (p pod) named(name, protocol string) int {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, q := range c.Ports {
			if q.Name == name && orTCP(q.Protocol) == orTCP(protocol) {
				return q.ContainerPort
			}
		}
	}
	return 0
}

func orTCP(protocol string) string {
	if protocol == "" {
		return "TCP"
	}
	return protocol
}

// isolates reports whether the policy is about that direction: what policyTypes says, or, without
// it, ingress always and egress where there are rules for it.
func (p networkPolicy) isolates(direction string) bool {
	if len(p.Spec.PolicyTypes) > 0 {
		return slices.Contains(p.Spec.PolicyTypes, direction)
	}
	return direction == ingress || len(p.Spec.Egress) > 0
}

const (
	ingress = "Ingress"
	egress  = "Egress"
)

// rule is one of a policy, of either direction.
type rule struct {
	peers []peer
	ports []port
}

func (p networkPolicy) rules(direction string) []rule {
	var rules []rule
	if direction == ingress {
		for _, r := range p.Spec.Ingress {
			rules = append(rules, rule{r.From, r.Ports})
		}
		return rules
	}
	for _, r := range p.Spec.Egress {
		rules = append(rules, rule{r.To, r.Ports})
	}
	return rules
}

// ruleset is the table as a script for nft -f, which takes it as one change. The same
// state gives the same text.
func (s state) ruleset() string {
	var chains, maps strings.Builder
	for _, direction := range []string{egress, ingress} {
		jumps := map[string][]string{} // by family
		for _, key := range sortedKeys(s.pods) {
			p := s.pods[key]
			policies, addrs := s.isolating(p, direction), p.addrs()
			if len(addrs) == 0 || len(policies) == 0 {
				continue
			}
			chain := strings.ToLower(direction) + "_" + strings.NewReplacer(".", "_", ":", "_").Replace(addrs[0].String())
			fmt.Fprintf(&chains, "\tchain %s { # %s\n", chain, key)
			for _, a := range addrs {
				jumps[family(a)] = append(jumps[family(a)], a.String()+" : jump "+chain)
				// No pod can be kept from itself.
				fmt.Fprintf(&chains, "\t\t%[1]s saddr %[2]s %[1]s daddr %[2]s return\n", family(a), a)
			}
			for _, np := range policies {
				for _, r := range np.rules(direction) {
					for _, line := range s.lines(p, np.Metadata.Namespace, direction, r) {
						fmt.Fprintf(&chains, "\t\t%s return\n", line)
					}
				}
			}
			chains.WriteString("\t\tdrop\n\t}\n")
		}
		for _, f := range sortedKeys(jumps) {
			fmt.Fprintf(&maps, "\t\t%s %s vmap { %s }\n", f, self(direction), strings.Join(jumps[f], ", "))
		}
	}
	text := "table inet " + Table + "\ndelete table inet " + Table + "\n"
	if chains.Len() == 0 {
		return text
	}
	// Forwarding is what goes from pod to pod or beyond, after Services have become pods; what
	// the node itself sends and gets does not come here.
	return text + "table inet " + Table + " {\n" + chains.String() +
		"\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n" +
		"\t\tct state established,related accept\n" + maps.String() + "\t}\n}\n"
}

// self is where the isolated pod's address stands in a packet, other where its peer's does.
func self(direction string) string {
	if direction == ingress {
		return "daddr"
	}
	return "saddr"
}

func other(direction string) string {
	if direction == ingress {
		return "saddr"
	}
	return "daddr"
}

// isolating are the policies that select the pod for that direction.
func (s state) isolating(p pod, direction string) []networkPolicy {
	var found []networkPolicy
	for _, key := range sortedKeys(s.policies) {
		np := s.policies[key]
		if np.Metadata.Namespace == p.Metadata.Namespace && np.isolates(direction) && np.Spec.PodSelector.matches(p.Metadata.Labels) {
			found = append(found, np)
		}
	}
	return found
}

// lines are the matches, one of which lets a packet pass by the rule.
func (s state) lines(p pod, space, direction string, r rule) []string {
	if len(r.peers) == 0 {
		return withPorts("", r.ports, p)
	}
	var lines []string
	for _, who := range r.peers {
		if who.IPBlock != nil {
			cidr, err := netip.ParsePrefix(who.IPBlock.CIDR)
			if err != nil {
				continue // the API server lets none through: nobody is meant
			}
			where := family(cidr.Addr()) + " " + other(direction)
			match := where + " " + who.IPBlock.CIDR
			if len(who.IPBlock.Except) > 0 {
				match += " " + where + " != { " + strings.Join(who.IPBlock.Except, ", ") + " }"
			}
			// A port's name means nothing at an address that is no pod's.
			lines = append(lines, withPorts(match, r.ports, p)...)
			continue
		}
		for _, q := range s.chosen(who, space) {
			owner := p // of the port's name: who is called
			if direction == egress {
				owner = q
			}
			for _, a := range q.addrs() {
				lines = append(lines, withPorts(family(a)+" "+other(direction)+" "+a.String(), r.ports, owner)...)
			}
		}
	}
	return lines
}

// chosen are the pods that a peer's selectors mean.
func (s state) chosen(who peer, space string) []pod {
	var found []pod
	for _, key := range sortedKeys(s.pods) {
		p := s.pods[key]
		if who.NamespaceSelector == nil && p.Metadata.Namespace != space ||
			who.NamespaceSelector != nil && !who.NamespaceSelector.matches(s.namespaces[p.Metadata.Namespace].Metadata.Labels) ||
			who.PodSelector != nil && !who.PodSelector.matches(p.Metadata.Labels) {
			continue
		}
		found = append(found, p)
	}
	return found
}

// withPorts adds the ports to a match; a name that the owner has no port for lets nothing pass.
func withPorts(match string, ports []port, owner pod) []string {
	match = strings.TrimSpace(match)
	if len(ports) == 0 {
		return []string{match}
	}
	var lines []string
	for _, q := range ports {
		protocol := strings.ToLower(orTCP(q.Protocol))
		number, name := q.value()
		if name != "" {
			number = owner.named(name, q.Protocol)
		}
		var what string
		switch {
		case len(q.Port) == 0:
			what = "meta l4proto " + protocol
		case number == 0:
			continue
		case q.EndPort != 0:
			what = fmt.Sprintf("%s dport %d-%d", protocol, number, q.EndPort)
		default:
			what = protocol + " dport " + strconv.Itoa(number)
		}
		lines = append(lines, strings.TrimSpace(match+" "+what))
	}
	return lines
}

// value is the number or the name.
func (p port) value() (number int, name string) {
	if json.Unmarshal(p.Port, &number) != nil {
		_ = json.Unmarshal(p.Port, &name) // neither: as a name that nobody has
	}
	return number, name
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
