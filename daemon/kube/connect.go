package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/manifests"
)

const (
	// ConnectPort is the port of a connection's agent.
	ConnectPort int32 = 15100
	// connectAlone is how long a connection's agent stays without a laptop.
	connectAlone = 5 * time.Minute
	// connectStart is how long it may take to serve its laptop for the first time.
	connectStart = 10 * time.Minute
)

// Connector is the agent that connects a laptop to the cluster, in nobody's place.
type Connector struct {
	Session    string // id
	Image      string // its entrypoint is the agent
	PullPolicy string // as Agent's
	Keys       map[string][]byte
	User, Host string
	Since      time.Time
	// AloneFor is how long it stays without a laptop; 0 means 5 minutes.
	AloneFor time.Duration
}

// Name is that of its Job and its Secret.
func (a Connector) Name() string { return manifests.ConnectName(a.Session) }

func (a Connector) input(namespace string) (manifests.ConnectInput, error) {
	who, err := json.Marshal(struct {
		User  string    `json:"user"`
		Host  string    `json:"host"`
		Since time.Time `json:"since"`
	}{a.User, a.Host, a.Since.UTC().Truncate(time.Second)})
	if a.AloneFor <= 0 {
		a.AloneFor = connectAlone
	}
	return manifests.ConnectInput{
		Namespace: namespace, Session: a.Session, Image: a.Image, PullPolicy: corev1.PullPolicy(a.PullPolicy),
		TunnelPort: ConnectPort, Who: string(who), AloneFor: a.AloneFor, StartFor: connectStart,
	}, err
}

// connectNeeds are the permissions without which nobody connects. The ClusterRole `edit`, bound in the namespace, has all of them.
func connectNeeds() []Permission {
	return []Permission{
		{"create", "batch", "jobs", "make the agent"},
		{"get", "batch", "jobs", "see whose an agent is"},
		{"list", "batch", "jobs", "wait for the agent"},
		{"watch", "batch", "jobs", "wait for the agent"},
		{"patch", "batch", "jobs", "let the agent stay, once it serves"},
		{"delete", "batch", "jobs", "take the agent away"},
		{"list", "", "pods", "find the agent's pod"},
		{"watch", "", "pods", "wait for the agent's pod"},
		{"create", "", "secrets", "give the agent its keys"},
		{"delete", "", "secrets", "take the keys away"},
	}
}

// CheckConnect asks for all that a connection needs, at once. What is missing is one *MissingPermissionError; a namespace that
// does not exist is a *NotFoundError.
func (c *Cluster) CheckConnect(ctx context.Context) error {
	var wg sync.WaitGroup
	var access, namespace error
	wg.Go(func() { access = c.checkNeeds(ctx, connectNeeds()) })
	wg.Go(func() { namespace = c.checkNamespace(ctx, "what you want to reach") })
	wg.Wait()
	if namespace != nil {
		return namespace
	}
	return access
}

// CreateConnect makes the Job and its Secret. What this session has made already is fine. What the cluster's admission refuses is a
// *PodStuckError.
func (c *Cluster) CreateConnect(ctx context.Context, a Connector) error {
	in, err := a.input(c.namespace)
	if err != nil {
		return fmt.Errorf("make the agent: %w", err)
	}
	wanted, err := manifests.ConnectJob(in)
	if err != nil {
		return fmt.Errorf("make the agent: %w", err)
	}
	jobs := c.client.BatchV1().Jobs(c.namespace)
	var made *batchv1.Job
	err = c.change(ctx, "make job/"+wanted.Name, func(ctx context.Context) (err error) {
		made, err = jobs.Create(ctx, wanted, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // the name holds the session's id
			made, err = jobs.Get(ctx, wanted.Name, metav1.GetOptions{})
		}
		return err
	})
	if err != nil {
		return explainConnect(c.refused(Object{Kind: Job, Name: wanted.Name}, Job, err))
	}
	return c.putSecret(ctx, manifests.ConnectSecret(in, made.ObjectMeta, a.Keys))
}

// SettleConnect lets the Job stay: until then it has a deadline, for an agent that never serves.
func (c *Cluster) SettleConnect(ctx context.Context, session string) error {
	name := manifests.ConnectName(session)
	return c.change(ctx, "patch job/"+name, func(ctx context.Context) error {
		_, err := c.client.BatchV1().Jobs(c.namespace).Patch(ctx, name, types.MergePatchType,
			[]byte(`{"spec":{"activeDeadlineSeconds":null}}`), metav1.PatchOptions{})
		return err
	})
}

// WaitConnect waits until the agent's container runs and its pod has an address, as WaitAgentRunning does. A Job that is gone, or has
// ended, is a *NotFoundError.
func (c *Cluster) WaitConnect(ctx context.Context, session string, notify Notify) (AgentPod, error) {
	name, selector := manifests.ConnectName(session), manifests.SessionKey+"="+session
	jobs, pods := c.jobsLabelled(selector), c.podsLabelled(selector)
	events, refusals := c.podWarnings(eventsDelay), c.warningsOf("Job", name)
	var agent AgentPod
	judge := func() verdict {
		if !jobs.synced || !pods.synced {
			return verdict{}
		}
		job, found := jobs.only()
		if !found || job.DeletionTimestamp != nil || jobEnded(job) {
			return verdict{err: &NotFoundError{What: "job", Name: name, Namespace: c.namespace, Hint: "it has been deleted, or has ended, meanwhile"}}
		}
		pod := newest(pods.items)
		if pod == nil {
			return judgeNoJobPod(c.namespace, name, refusals.items)
		}
		container := agentContainer(pod.Spec)
		if v := judgePod(pod, name, container, events.items); v.err != nil || !agentRuns(pod, container) {
			return v
		}
		ip, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil {
			return verdict{} // not reported yet
		}
		agent = AgentPod{Namespace: pod.Namespace, Name: pod.Name, IP: ip, Node: pod.Spec.NodeName}
		return verdict{done: true}
	}
	err := c.wait(ctx, "wait for the agent "+name, notify, judge, jobs, pods, events, refusals)
	var stuck *PodStuckError
	if errors.As(err, &stuck) {
		c.addEvent(ctx, stuck)
	}
	return agent, explainConnect(err)
}

func jobEnded(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}

// judgeNoJobPod looks for the reason why a Job has no pod, of which only events tell.
func judgeNoJobPod(namespace, name string, events map[types.UID]*corev1.Event) verdict {
	event := lastEvent(events, name)
	if event == nil {
		return verdict{}
	}
	for _, final := range []string{"is forbidden", "is invalid", "denied the request"} {
		if strings.Contains(event.Message, final) {
			return verdict{err: &PodStuckError{
				Namespace: namespace, Owner: Object{Kind: Job, Name: name}.String(), Reason: event.Reason, Message: event.Message,
			}}
		}
	}
	return verdict{note: "no pod could be made yet: " + event.Message}
}

// explainConnect says of an agent that does not come what to do where it is in nobody's place.
func explainConnect(err error) error {
	var stuck *PodStuckError
	if !errors.As(err, &stuck) || stuck.Container != "" {
		return err
	}
	other := *stuck
	switch {
	case strings.Contains(stuck.Message, overQuota):
		other.Hint = "the agent asks for 25m of CPU and 64Mi: ask for more quota, make room in the namespace, or name another by --namespace"
	default:
		other.Hint = "the cluster's admission does not let the agent's pod in; ask who runs it, or name another namespace by --namespace"
	}
	return &other
}

// DeleteConnect takes a connection's agent away and waits until its pods are gone, as DeleteAgent does. Nothing to delete is success. It repeats
// until ctx ends while the API server is away. notify may be nil.
func (c *Cluster) DeleteConnect(ctx context.Context, session string, notify Notify) error {
	name, selector := manifests.ConnectName(session), manifests.SessionKey+"="+session
	jobs := c.client.BatchV1().Jobs(c.namespace)
	err := c.deleteOurs(ctx, "job/"+name, session, func(ctx context.Context) (metav1.Object, error) {
		return jobs.Get(ctx, name, metav1.GetOptions{})
	}, func(ctx context.Context, o metav1.DeleteOptions) error { return jobs.Delete(ctx, name, o) })
	if err != nil {
		return err
	}
	// The garbage collector would do the rest, but takes its time.
	if err := c.DeleteSecret(ctx, name); err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	if err := c.once(ctx, func(ctx context.Context) error {
		return c.client.CoreV1().Pods(c.namespace).DeleteCollection(ctx,
			metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{LabelSelector: selector})
	}); err != nil {
		c.log.Debug("leaving the agent's pod to the garbage collector", "agent", name, "err", err)
	}
	return c.waitDrained(ctx, name, notify, c.podsLabelled(selector), func() bool { return false })
}

func (c *Cluster) jobsLabelled(selector string) *objects[*batchv1.Job] {
	api := c.client.BatchV1().Jobs(c.namespace)
	return &objects[*batchv1.Job]{
		what: "jobs", options: metav1.ListOptions{LabelSelector: selector}, watch: api.Watch,
		list: func(ctx context.Context, o metav1.ListOptions) ([]*batchv1.Job, string, error) {
			list, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(list.Items), list.ResourceVersion, nil
		},
	}
}

// warningsOf are the warning events on one object.
func (c *Cluster) warningsOf(kind, name string) *objects[*corev1.Event] {
	events := c.podWarnings(0)
	events.options.FieldSelector = fields.Set{
		"involvedObject.kind": kind, "involvedObject.name": name, "type": corev1.EventTypeWarning,
	}.AsSelector().String()
	return events
}
