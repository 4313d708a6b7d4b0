package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/teleswap/teleswap/manifests"
)

// newContainer is the name of the one container of what is new, unless the user gives it another.
const newContainer = "app"

// nameForm is RFC 1035's label, as Kubernetes takes it.
const nameForm = "lower-case letters, digits and -, the first a letter, the last no -, 63 at most"

// NewError says why what was asked for cannot be made.
type NewError struct {
	Object string // "deployment/hello"
	Reason string
	Hint   string
}

func (e *NewError) Error() string {
	return join(fmt.Sprintf("%s cannot be made: %s", e.Object, e.Reason), e.Hint)
}

// resolveNew finds out whether a Deployment, and with ports a Service, of the name can be made, and changes nothing.
func (c *Cluster) resolveNew(ctx context.Context, ref Ref) (*Target, error) {
	o := Object{Kind: Deployment, Name: ref.Name}
	// A Service's name is narrower than a Deployment's, and a pod's hostname is made of it.
	if len(validation.IsDNS1035Label(ref.Name)) > 0 {
		return nil, &NewError{o.String(), "that is no name for it: " + nameForm, "choose another name"}
	}
	container := ref.Container
	if container == "" {
		container = newContainer
	}
	if len(validation.IsDNS1035Label(container)) > 0 {
		return nil, &NewError{o.String(), fmt.Sprintf("%q is no name for its container: %s", container, nameForm), "choose another name for it, or leave it away"}
	}
	wish, err := portsOf(manifests.NewTemplate(container, "", nil, nil), container, nil, ref)
	if err != nil {
		return nil, err
	}
	t := &Target{
		Namespace: c.namespace, Kind: Deployment, Name: ref.Name, Container: container, New: true, Replicas: 1,
		Listen: wish.listen, ListenUDP: wish.udp, Need: wish.need, NeedUDP: wish.needUDP, Maps: wish.maps, Loopback: wish.loopback,
		TunnelPort: wish.tunnel, Notes: wish.notes,
	}
	t.work = &workload{
		kind: Deployment, meta: metav1.ObjectMeta{Namespace: c.namespace, Name: ref.Name}, replicas: 1,
		template: manifests.NewTemplate(container, ref.ServiceAccount, wish.listen, wish.udp),
	}
	hasService := len(wish.listen)+len(wish.udp) > 0
	if hasService {
		t.Services = []string{ref.Name}
	} else {
		t.Notes = append(t.Notes, "no Service is made, as there is no --expose: nobody calls the process by a name")
	}
	var wg sync.WaitGroup
	var errs [4]error
	wg.Go(func() { errs[0] = c.nameFree(ctx, ref.Name, hasService) })
	wg.Go(func() { errs[1] = c.checkNamespace(ctx, o.String()) })
	wg.Go(func() { errs[2] = c.checkServiceAccount(ctx, ref.ServiceAccount) })
	wg.Go(func() { errs[3] = c.checkNew(ctx, hasService) })
	wg.Wait()
	for _, i := range []int{1, 0, 2, 3} { // without the namespace the rest means nothing
		if errs[i] != nil {
			return nil, errs[i]
		}
	}
	return t, nil
}

// nameFree looks for what has the name.
func (c *Cluster) nameFree(ctx context.Context, name string, service bool) error {
	w, err := c.named(ctx, "", name)
	switch {
	case err != nil:
		return err
	case w != nil:
		if mark, err := markOf(w); err == nil && mark != nil && mark.New {
			return &AlreadySwappedError{Namespace: c.namespace, Target: w.object().String(), Mark: *mark}
		}
		return &NewError{
			"deployment/" + name, fmt.Sprintf("%s exists in namespace %s already", w.object(), c.namespace),
			fmt.Sprintf("take its place by `teleswap swap %s`, or choose another name", w.object()),
		}
	case !service:
		return nil
	}
	var found *corev1.Service
	err = c.call(ctx, "read service/"+name, func(ctx context.Context) (err error) {
		found, err = c.client.CoreV1().Services(c.namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	hint := "choose another name; `teleswap swap` takes the place of what the Service leads to"
	if len(found.Spec.Selector) == 0 {
		hint = "choose another name"
	}
	return &NewError{"service/" + name, fmt.Sprintf("one exists in namespace %s already", c.namespace), hint}
}

// checkServiceAccount looks for a ServiceAccount. One that the user may not look at is taken for there.
func (c *Cluster) checkServiceAccount(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	accounts := c.client.CoreV1().ServiceAccounts(c.namespace)
	err := c.call(ctx, "read serviceaccount/"+name, func(ctx context.Context) error {
		_, err := accounts.Get(ctx, name, metav1.GetOptions{})
		return err
	})
	if isDenied(err) {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	e := &NotFoundError{What: "serviceaccount", Name: name, Namespace: c.namespace, Hint: "without --serviceaccount the process has the namespace's default", Err: err}
	list, err := accounts.List(ctx, metav1.ListOptions{})
	if err != nil {
		return e // without near names
	}
	var names []string
	for _, account := range list.Items {
		names = append(names, account.Name)
	}
	e.Near, e.Names = nearest(name, names), few(names)
	return e
}

// checkNew asks for what a Deployment that is made needs beyond CheckAccess.
func (c *Cluster) checkNew(ctx context.Context, service bool) error {
	if !service {
		return nil
	}
	asked := forService()
	allowed, err := c.review(ctx, asked)
	if err != nil {
		return err
	}
	var missing []Missing
	for _, p := range asked {
		if !allowed[p] {
			missing = append(missing, c.missing(p))
		}
	}
	return c.missingError(ctx, missing)
}

// forService is what a Service beside a new Deployment needs.
func forService() []Permission {
	return []Permission{
		{"get", "", "services", "see that the name is free"},
		{"create", "", "services", "make the Service"},
		{"delete", "", "services", "take the Service away"},
	}
}

// CreateNew makes the Deployment that t.Resolve found to be free, which is the agent and bears the mark, and then what
// it owns: the Secret with the agent's keys and, if it has ports, the Service. What this session has made already is fine; a name
// that somebody else took meanwhile is a *NewError.
func (c *Cluster) CreateNew(ctx context.Context, t *Target, a Agent, m Mark) error {
	c = c.In(t.Namespace)
	m.New, m.Replicas = true, 1
	mark, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	in := a.input(t)
	wanted, err := manifests.NewDeployment(in, string(mark))
	if err != nil {
		return fmt.Errorf("make the agent: %w", err)
	}
	deployments := c.client.AppsV1().Deployments(c.namespace)
	var made *appsv1.Deployment
	err = c.change(ctx, "make "+t.Object().String(), func(ctx context.Context) (err error) {
		made, err = deployments.Create(ctx, wanted, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // by an earlier try, perhaps
			made, err = deployments.Get(ctx, t.Name, metav1.GetOptions{})
		}
		return err
	})
	if err != nil {
		return c.refused(t.Object(), Deployment, err)
	}
	if made.Labels[manifests.SessionKey] != a.Session {
		return &NewError{t.Object().String(), "somebody else has just made one", "choose another name, or try again"}
	}
	in.Target.UID = made.UID
	if err := c.putSecret(ctx, manifests.KeysSecret(in, a.Keys)); err != nil {
		return err
	}
	return c.createService(ctx, manifests.NewService(in))
}

func (c *Cluster) createService(ctx context.Context, wanted *corev1.Service) error {
	if wanted == nil {
		return nil
	}
	services := c.client.CoreV1().Services(c.namespace)
	made := wanted
	err := c.change(ctx, "make service/"+wanted.Name, func(ctx context.Context) (err error) {
		made, err = services.Create(ctx, wanted, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			made, err = services.Get(ctx, wanted.Name, metav1.GetOptions{})
		}
		return err
	})
	if err == nil && made.Labels[manifests.SessionKey] != wanted.Labels[manifests.SessionKey] {
		return &NewError{"service/" + wanted.Name, "somebody else has just made one", "choose another name, or try again"}
	}
	return err
}

// ExplainNew says of an agent's pod that does not come what to do where there is no original beside it.
func ExplainNew(err error) error {
	var stuck *PodStuckError
	if !errors.As(err, &stuck) || !strings.Contains(stuck.Message, overQuota) {
		return err
	}
	other := *stuck
	other.Hint = "ask for more quota, or make room in the namespace"
	return &other
}

// DeleteNew takes away what CreateNew has made for the session of agent (an AgentName), and waits until its pods are gone, as
// DeleteAgent does. What has the name and is not that session's stays. Nothing to delete is success. It repeats until ctx ends while the API
// server is away. notify may be nil.
func (c *Cluster) DeleteNew(ctx context.Context, name, agent string, notify Notify) error {
	session := manifests.SessionOf(agent)
	services := c.client.CoreV1().Services(c.namespace)
	err := c.deleteOurs(ctx, "service/"+name, session, func(ctx context.Context) (metav1.Object, error) {
		return services.Get(ctx, name, metav1.GetOptions{})
	}, func(ctx context.Context, o metav1.DeleteOptions) error { return services.Delete(ctx, name, o) })
	if err != nil && !isDenied(err) { // who may not look at Services has made none
		return err
	}
	deployments := c.client.AppsV1().Deployments(c.namespace)
	err = c.deleteOurs(ctx, "deployment/"+name, session, func(ctx context.Context) (metav1.Object, error) {
		return deployments.Get(ctx, name, metav1.GetOptions{})
	}, func(ctx context.Context, o metav1.DeleteOptions) error { return deployments.Delete(ctx, name, o) })
	if err != nil {
		return err
	}
	if err := c.sweep(ctx, agent, notify); err != nil {
		return err
	}
	return c.DeleteSecret(ctx, agent)
}

// deleteOurs deletes an object if it is the session's, and still the one that was looked at.
func (c *Cluster) deleteOurs(ctx context.Context, name, session string,
	get func(context.Context) (metav1.Object, error), remove func(context.Context, metav1.DeleteOptions) error,
) error {
	background := metav1.DeletePropagationBackground
	err := c.insistChange(ctx, "delete "+name, func(ctx context.Context) error {
		found, err := get(ctx)
		if err != nil || found.GetLabels()[manifests.SessionKey] != session {
			return err
		}
		uid := found.GetUID()
		options := metav1.DeleteOptions{PropagationPolicy: &background}
		if uid != types.UID("") {
			options.Preconditions = &metav1.Preconditions{UID: &uid}
		}
		return remove(ctx, options)
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or replaced meanwhile
		return nil
	}
	return err
}

// NewName makes of an image, or of any text, a name that resolveNew takes: "registry.example/team/Web_App:1.2" is
// "web-app". Empty: nothing of it can be in a name.
func NewName(text string) string {
	text, _, _ = strings.Cut(text, "@")
	text = text[strings.LastIndexByte(text, '/')+1:]
	text, _, _ = strings.Cut(text, ":")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, text)
	name = strings.TrimLeft(name, "-0123456789")
	return strings.TrimRight(name[:min(len(name), 40)], "-")
}
