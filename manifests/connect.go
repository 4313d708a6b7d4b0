package manifests

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// ConnectKey is an annotation of what connects a laptop to the cluster: who does so, and since when.
	ConnectKey = "teleswap.dev/connect"

	// connectContainer is the name of its one container.
	connectContainer = "agent"
	// connectRestarts is how often its container may crash, or its pod be evicted, before the Job gives up.
	connectRestarts int32 = 100
)

// ConnectName is the name of the Job and the Secret that connect a laptop to the cluster.
func ConnectName(session string) string { return "teleswap-connect-" + session }

// ConnectInput is what the objects of a connection are made from.
type ConnectInput struct {
	Namespace  string
	Session    string // id
	Image      string // of the agent
	PullPolicy corev1.PullPolicy
	TunnelPort int32
	Who        string // the annotation's value
	// AloneFor is how long the agent stays without a laptop.
	AloneFor time.Duration
	// StartFor is how long the pod may take to serve its laptop for the first time, until whoever made the Job lifts its deadline.
	StartFor time.Duration
}

// agent is the input of the objects, of which that with the UID (empty: none yet) is the Job.
func (in ConnectInput) agent(job metav1.ObjectMeta) AgentInput {
	name := ConnectName(in.Session)
	return AgentInput{
		Target: Workload{
			APIVersion: "batch/v1", Kind: "Job", Namespace: in.Namespace, Name: name, UID: job.UID,
			Template: NewTemplate(connectContainer, "", nil, nil),
		},
		Container: connectContainer, Session: in.Session, Name: name, Image: in.Image, PullPolicy: in.PullPolicy,
		TunnelPort: in.TunnelPort, KeysSecret: name, New: true,
	}
}

// ConnectJob is the agent that connects a laptop to the cluster, in nobody's place. It is a Job, since nothing in the cluster but
// the Job's own controllers is there to take it away when the laptop is gone for good, and no permission is given to the agent to do
// it itself: the agent ends with success when it was alone for AloneFor, so the Job is complete, so it is deleted
// (ttlSecondsAfterFinished), and with it the pod and the Secret, which it owns. For an agent that never comes
// so far (its image cannot be pulled, say) the Job has a deadline until it is lifted.
func ConnectJob(in ConnectInput) (*batchv1.Job, error) {
	agent := in.agent(metav1.ObjectMeta{})
	template, err := agent.template()
	if err != nil {
		return nil, fmt.Errorf("connect manifest: %w", err)
	}
	no, one, at, restarts, start := false, int32(1), int32(0), connectRestarts, int64(in.StartFor/time.Second)
	spec := &template.Spec
	spec.RestartPolicy = corev1.RestartPolicyOnFailure
	// It asks the API server for nothing, and its environment is nobody's.
	spec.AutomountServiceAccountToken, spec.EnableServiceLinks = &no, &no
	c := &spec.Containers[0]
	c.ReadinessProbe = nil // no Service leads to it
	c.Args = append(c.Args, "--alone-for", in.AloneFor.String())
	meta := agent.objectMeta(agent.Name)
	meta.Annotations = map[string]string{ConnectKey: in.Who}
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: meta,
		Spec: batchv1.JobSpec{
			Parallelism: &one, Completions: &one, BackoffLimit: &restarts, ActiveDeadlineSeconds: &start,
			TTLSecondsAfterFinished: &at, Template: *template,
		},
	}, nil
}

// ConnectSecret holds the agent's keys, and belongs to the Job.
func ConnectSecret(in ConnectInput, job metav1.ObjectMeta, files map[string][]byte) *corev1.Secret {
	return KeysSecret(in.agent(job), files)
}
