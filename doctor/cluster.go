package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
)

// noServer stands where a check needs an API server and there is none.
const noServer = "not checked: there is no API server to ask"

func (e *Examination) checkKubeconfig() {
	const check = "kubeconfig"
	c, err := kube.Connect(e.cfg.Connection, kube.Config{Version: e.cfg.Version})
	if err != nil {
		e.fail(check, err)
		return
	}
	e.cluster = c
	says := fmt.Sprintf("namespace %s at %s", c.Namespace(), c.Server())
	if c.Context() != "" {
		says = fmt.Sprintf("context %s: ", c.Context()) + says
	}
	if c.User() != "" {
		says += ", as " + c.User()
	}
	e.ok(check, says)
}

func (e *Examination) checkServer(ctx context.Context) {
	const check = "API server"
	if e.cluster == nil {
		e.note(check, "not checked: no kubeconfig leads to one", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	began := time.Now()
	version, err := e.cluster.ServerVersion(ctx)
	if err != nil {
		e.fail(check, err)
		return
	}
	took := time.Since(began).Round(time.Millisecond)
	if err := e.cluster.CheckNamespace(ctx); err != nil {
		e.fail(check, err)
		return
	}
	e.answers = true
	if version == "" {
		version = "keeps its version to itself"
	}
	e.ok(check, fmt.Sprintf("%s, answers in %s", version, took))
}

// checkPermissions says what may be done, one line for each thing that may not.
func (e *Examination) checkPermissions(ctx context.Context) {
	const check = "permissions"
	if !e.answers {
		e.note(check, noServer, "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	uses := kube.Uses()
	user, missing, err := e.cluster.Review(ctx, uses)
	if err != nil {
		e.fail(check, err)
		return
	}
	var may []string
	var lacking []*lack
	for i, m := range missing {
		if m == nil {
			may = append(may, uses[i].Name)
			continue
		}
		lacking = addLack(lacking, uses[i], m)
	}
	if len(may) > 0 {
		e.ok(check, fmt.Sprintf("%s may, in namespace %s: %s", orYou(user), e.cluster.Namespace(), strings.Join(may, ", ")))
	}
	var named []kube.Missing // said once is enough
	for _, l := range lacking {
		m := *l.missing
		m.Missing = slices.DeleteFunc(slices.Clone(m.Missing), func(p kube.Missing) bool { return slices.Contains(named, p) })
		named = append(named, m.Missing...)
		why := "nothing beyond that is missing"
		if len(m.Missing) > 0 {
			why = m.Why()
		}
		f := Finding{Check: check, State: Note, Says: fmt.Sprintf("to %s: %s", strings.Join(l.names, ", "), why), Do: m.Do()}
		if l.matters {
			f.State = Not
		}
		e.Add(f)
	}
}

func orYou(user string) string {
	if user == "" {
		return "you"
	}
	return "user " + user
}

// lack is what is missing for several uses at once.
type lack struct {
	names   []string
	missing *kube.MissingPermissionError
	matters bool // they are for something that is usual
}

// addLack puts uses for which the same is missing into one. Whoever may swap Deployments may do without the rest.
func addLack(all []*lack, u kube.Use, m *kube.MissingPermissionError) []*lack {
	matters := u.Kind == kube.Deployment || u.Kind == ""
	for _, l := range all {
		if slices.Equal(l.missing.Missing, m.Missing) {
			l.names = append(l.names, u.Name)
			l.matters = l.matters || matters
			return all
		}
	}
	return append(all, &lack{names: []string{u.Name}, missing: m, matters: matters})
}

// checkMarks says which targets of the namespace bear a mark that nobody here looks after.
func (e *Examination) checkMarks(ctx context.Context) (found bool) {
	const check = "leftovers"
	if !e.answers {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	marked, err := e.cluster.ListMarked(ctx, false)
	var missing *kube.MissingPermissionError
	switch {
	case errors.As(err, &missing):
		return false // said already
	case err != nil:
		e.fail(check, err)
		return true
	}
	for _, m := range marked {
		what := fmt.Sprintf("%s in namespace %s bears the mark of session %s of %s, since %s", m.Object(), m.Namespace, m.Mark.ID, m.Mark.Who(),
			m.Mark.Since.Local().Format("2006-01-02 15:04"))
		switch {
		case e.sessions[m.Mark.ID]:
		case m.Mark.User == e.cfg.User && m.Mark.Host == e.cfg.Host:
			found = true
			e.not(check, what+", which does not live on this machine", fmt.Sprintf("`teleswap restore %s --namespace %s` gives it back", m.Object(), m.Namespace))
		default:
			e.note(check, what, fmt.Sprintf("if that laptop is gone: `teleswap restore %s --namespace %s`", m.Object(), m.Namespace))
		}
	}
	return found
}
