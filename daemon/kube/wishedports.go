package kube

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Port is a port of a pod.
type Port struct {
	Number int32
	UDP    bool
}

// String is the port as the flags take it: "53/udp".
func (p Port) String() string {
	if p.UDP {
		return strconv.Itoa(int(p.Number)) + "/udp"
	}
	return strconv.Itoa(int(p.Number))
}

// PortMap is a port of the target, Remote, and the port of the local process that it leads to.
type PortMap struct {
	Local, Remote int32
	UDP           bool
}

// String is the ports as --expose takes them: "8080:80".
func (m PortMap) String() string { return fmt.Sprintf("%d:%s", m.Local, Port{m.Remote, m.UDP}) }

// PortError says why a port that was asked for cannot be had in the pod.
type PortError struct {
	Flag   string // with its value: "--expose 9102"
	Reason string
	Hint   string
}

func (e *PortError) Error() string { return join(e.Flag+": "+e.Reason, e.Hint) }

// wished adds what the user wants of ports to what the cluster says of them.
type wished struct {
	tcp, udp               map[int32]bool   // the target's ports; add adds to them
	foreignTCP, foreignUDP map[int32]string // ports that only other containers declare, and which
	taken                  map[int32]bool   // add adds to it

	loopback []Port
	maps     []PortMap
	notes    []string
}

func (w *wished) add(wish Ref) error {
	for _, e := range wish.Expose {
		if err := w.expose(e); err != nil {
			return err
		}
	}
	for _, p := range wish.FromPod {
		if err := w.fromPod(p); err != nil {
			return err
		}
	}
	for _, p := range wish.ToPod {
		if err := w.toPod(p); err != nil {
			return err
		}
	}
	return nil
}

// own are the target's ports of p's protocol, foreign those of other containers.
func (w *wished) own(p Port) map[int32]bool {
	if p.UDP {
		return w.udp
	}
	return w.tcp
}

func (w *wished) foreign(p Port) string {
	if p.UDP {
		return w.foreignUDP[p.Number]
	}
	return w.foreignTCP[p.Number]
}

func (w *wished) expose(e PortMap) error {
	p := Port{e.Remote, e.UDP}
	if other := w.foreign(p); other != "" && !w.own(p)[e.Remote] {
		return &PortError{
			Flag: "--expose " + e.String(), Reason: fmt.Sprintf("port %s of the pod belongs to container %s", p, other),
			Hint: fmt.Sprintf("expose another port, or swap that container (NAME:%s)", other),
		}
	}
	w.own(p)[e.Remote] = true
	w.taken[e.Remote] = true
	if e.Local != e.Remote {
		w.maps = append(w.maps, e)
	}
	return nil
}

func (w *wished) fromPod(p Port) error {
	if w.own(p)[p.Number] {
		w.notes = append(w.notes, fmt.Sprintf("--from-pod %s: the pod's other containers reach the process there anyway, it is a port of the target", p))
		return nil
	}
	if other := w.foreign(p); other != "" {
		return &PortError{
			Flag: "--from-pod " + p.String(), Reason: fmt.Sprintf("port %s of the pod belongs to container %s", p, other),
			Hint: "name a port that is free in the pod; --to-pod is the way from the process to another container",
		}
	}
	w.loopback = append(w.loopback, p)
	w.taken[p.Number] = true
	return nil
}

func (w *wished) toPod(p Port) error {
	reason := ""
	switch {
	case slices.Contains(w.loopback, p):
		reason = "--from-pod leads that port of the pod to the process: it would call itself"
	case w.own(p)[p.Number]:
		reason = "the port is the target's own, and leads to the process: it would call itself"
	}
	if reason != "" {
		return &PortError{Flag: "--to-pod " + p.String(), Reason: reason, Hint: "leave it out, or name a port on which another container of the pod listens"}
	}
	w.taken[p.Number] = true
	return nil
}

// local are the process's ports for ports of the target, sorted.
func (w *wished) local(remote map[int32]bool, udp bool) []int32 {
	local := maps.Clone(remote)
	for _, m := range w.maps {
		if m.UDP == udp && remote[m.Remote] {
			delete(local, m.Remote)
		}
	}
	for _, m := range w.maps { // after that: one may lead to another's number
		if m.UDP == udp && remote[m.Remote] {
			local[m.Local] = true
		}
	}
	return slices.Sorted(maps.Keys(local))
}
