package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
)

// findSession is the session of this machine that a word means: its id, or its target in any of the ways to write it. The
// empty word means the only one there is. -n narrows the choice where a target's name is that of several.
func (a *app) findSession(ctx context.Context, word string) (*api.Session, error) {
	c, err := a.dialSessions(ctx)
	if errors.Is(err, errNoDaemon) {
		return pickSession(nil, word, "")
	}
	if err != nil {
		return nil, err
	}
	defer closeQuietly(c)
	reply, err := c.Status(ctx, &api.StatusRequest{})
	if err != nil {
		return nil, callError(err)
	}
	return pickSession(reply.GetSessions(), word, a.kube.saidNamespace())
}

func pickSession(all []*api.Session, word, namespace string) (*api.Session, error) {
	var found []*api.Session
	var texts, names []string
	for _, s := range all {
		texts = append(texts, sessionText(s))
		_, bare, _ := strings.Cut(s.GetTarget(), "/")
		name, _, _ := strings.Cut(bare, ":")
		names = append(names, s.GetId(), name)
		switch {
		case word == s.GetId():
			return s, nil
		case namespace != "" && s.GetNamespace() != namespace:
		case word == "", kube.MeansTarget(word, s.GetTarget()):
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(all) == 0 && word == "":
		return nil, errors.New("there is no session; see `teleswap status`")
	case len(all) == 0:
		return nil, fmt.Errorf("there is no session %q; see `teleswap status`", word)
	case len(found) > 1:
		texts = nil
		for _, s := range found {
			texts = append(texts, sessionText(s))
		}
		return nil, fmt.Errorf("there are several sessions: %s\nname one by its id", strings.Join(texts, ", "))
	case word == "":
		return nil, fmt.Errorf("there is no session in namespace %s; there is %s", namespace, strings.Join(texts, ", "))
	}
	return nil, fmt.Errorf("there is no session %q%s\nthere is %s", word, didYouMean(word, names, ""), strings.Join(texts, ", "))
}

// sessionText tells a session from others of the same target's name.
func sessionText(s *api.Session) string {
	if s.GetNamespace() == "" { // not found yet
		return fmt.Sprintf("%s (%s)", s.GetId(), s.GetTarget())
	}
	return fmt.Sprintf("%s (%s in %s)", s.GetId(), s.GetTarget(), s.GetNamespace())
}
