package main

import (
	"strings"
	"testing"

	"github.com/teleswap/teleswap/daemon/api"
)

func TestCannotEnterSaysWhy(t *testing.T) {
	for want, s := range map[string]*api.Session{
		"started with --no-sandbox":       {State: "active", Target: "deployment/web"},
		"`teleswap connect -- COMMAND`":   {State: "active", Connects: true},
		"`teleswap status` tells how far": {State: "starting", Target: "deployment/web"},
		"cannot be entered any more":      {State: "restoring", Target: "deployment/web"},
	} {
		if got := cannotEnter(s).Error(); !strings.Contains(got, want) {
			t.Errorf("%v: %s; want %q in it", s, got, want)
		}
	}
}
