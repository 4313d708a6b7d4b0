//go:build linux

package cluster

import "context"

// Status is what a user may want to know of the clone's cluster.
type Status struct {
	State            string         `json:"state"` // "up", "down", "starting or half made", "broken"
	Why              string         `json:"why,omitempty"`
	Clone            string         `json:"clone"`
	Kubeconfig       string         `json:"kubeconfig,omitempty"`
	KubeconfigLaptop string         `json:"kubeconfigLaptop,omitempty"`
	Kubectl          string         `json:"kubectl,omitempty"`
	Node             string         `json:"nodeNetworkNamespace,omitempty"`
	Laptop           string         `json:"laptopNetworkNamespace,omitempty"`
	PID              int            `json:"pid,omitempty"`
	Workers          []WorkerStatus `json:"workers,omitempty"`
	Logs             string         `json:"logs,omitempty"`
}

// WorkerStatus is what a user may want to know of a further node.
type WorkerStatus struct {
	Name string `json:"name"`
	Up   bool   `json:"up"`
	Node string `json:"nodeNetworkNamespace"`
}

// Look finds out how the clone's cluster is. It changes nothing and takes no
// lock.
func Look(ctx context.Context, n Names) (Status, error) {
	s := Status{State: "down", Clone: n.Clone}
	there, err := n.traces()
	if err != nil || !there {
		return s, err
	}
	s.Node, s.Laptop, s.Logs = n.Node.Name, n.Laptop.Name, n.log()
	r, err := loadRecord(n.record())
	if err != nil {
		return s, err
	}
	if r == nil || r.Phase != phaseUp {
		s.State = "starting or half made"
		return s, nil
	}
	s.PID, s.Kubeconfig, s.KubeconfigLaptop, s.Kubectl = r.Node.PID, n.Kubeconfig(), n.KubeconfigLaptop(), n.Kubectl()
	for _, w := range r.Workers {
		s.Workers = append(s.Workers, WorkerStatus{Name: w.Name, Up: w.Process.Alive() && r.BootID == bootID(), Node: n.workerSpace(w.Name).Name})
	}
	if why := n.unfit(ctx, ""); why != nil {
		s.State, s.Why = "broken", why.Error()
		return s, nil
	}
	s.State = "up"
	return s, nil
}
