package scene

import (
	"context"
	"fmt"
	"strings"

	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/report"
)

// filesContainer is the one beside the swapped one that has the volume too.
const filesContainer = "files"

// TimeFiles times work with the files of a volume, that many rounds: by a process in the sandbox of a swap, and by
// what there is without one, `kubectl exec` in the pod. It is the whole command's time there, as somebody waits for it; what
// moves a file is as kubectl cp does it, through a pipe.
func (s *Scene) TimeFiles(ctx context.Context, rounds int) ([]report.Work, error) {
	outside, inside, stop, err := s.shells(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	pod, err := s.workPod(ctx)
	if err != nil {
		return nil, err
	}
	return s.timeJobs(ctx, s.fileJobs(pod), outside, inside, rounds), ctx.Err()
}

// workPod is the pod that stands for the work's now.
func (s *Scene) workPod(ctx context.Context) (string, error) {
	out, err := place.Output(ctx, s.Laptop.Command(s.Kubectl, "-n", s.Namespace, "get", "pods", "-l", "app="+Work,
		"--field-selector=status.phase=Running", "--sort-by=.metadata.creationTimestamp", "-o", "jsonpath={.items[*].metadata.name}"), "")
	if err != nil {
		return "", fmt.Errorf("find the pod of %s: %w", Work, err)
	}
	names := strings.Fields(string(out))
	if len(names) == 0 {
		return "", fmt.Errorf("find the pod of %s: there is none", Work)
	}
	return names[len(names)-1], nil
}

func (s *Scene) fileJobs(pod string) []job {
	in := s.Probe + " files --path " + VolumePath + " "
	exec := s.Kubectl + " exec -i -n " + s.Namespace + " " + pod + " -c " + filesContainer + " -- /probe files --path " + VolumePath + " "
	local := s.Laptop.Dir + "/big"
	jobs := []job{
		{name: "writing 100 MiB, with fsync", line: in + "write", other: exec + "receive < " + local, atMost: 1.5},
		{name: "reading 100 MiB, cold", line: in + "read", other: exec + "send > " + local + ".back", atMost: 1.5},
		{name: "1,000 random reads of 4 KiB", line: in + "random", other: exec + "random"},
		{name: "listing 10,000 files, with attributes", line: in + "list", other: exec + "list"},
		{name: "a look at each of 10,000 files in 100 folders", line: in + "walk", other: exec + "walk"},
		{name: "making 1,000 files of 1 KiB", line: in + "create", other: exec + "create"},
	}
	for i := range jobs {
		jobs[i].own = true
	}
	jobs[0].prepare = "head -c 104857600 /dev/urandom > " + local
	jobs[3].prepare = exec + "prepare"
	return jobs
}
