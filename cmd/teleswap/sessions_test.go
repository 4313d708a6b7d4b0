package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
)

func TestPickSession(t *testing.T) {
	all := []*api.Session{
		{Id: "bcd234", Target: "deployment/web:app", Namespace: "shop"},
		{Id: "fgh567", Target: "statefulset/web", Namespace: "test"},
		{Id: "jkm892", Target: "deployment/db", Namespace: "shop"},
	}
	for _, tc := range []struct{ word, namespace, want, fails string }{
		{"bcd234", "", "bcd234", ""},
		{"bcd234", "test", "bcd234", ""}, // an id is one in all namespaces
		{"db", "", "jkm892", ""},
		{"sts/web", "", "fgh567", ""},
		{"web", "test", "fgh567", ""},
		{"", "test", "fgh567", ""},
		{"web", "", "", "there are several sessions: bcd234 (deployment/web:app in shop), fgh567 (statefulset/web in test)\nname one by its id"},
		{"", "", "", "there are several sessions"},
		{"", "prod", "", "there is no session in namespace prod; there is bcd234"},
		{"webb", "", "", `there is no session "webb"; did you mean web?`},
		{"bcd243", "", "", "did you mean bcd234?"},
	} {
		got, err := pickSession(all, tc.word, tc.namespace)
		switch {
		case tc.fails == "" && (err != nil || got.GetId() != tc.want):
			t.Errorf("%q in %q: %v, %v, want %s", tc.word, tc.namespace, got, err, tc.want)
		case tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)):
			t.Errorf("%q in %q: %v, want %q", tc.word, tc.namespace, err, tc.fails)
		}
	}
	if _, err := pickSession(nil, "", ""); err == nil {
		t.Error("found a session among none")
	}
}

func TestNewOutputForgetsTheOld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), outputDir)
	first, err := newOutput(dir)
	if err != nil {
		t.Fatal(err)
	}
	closeQuietly(first)
	second, err := newOutput(dir)
	if err != nil {
		t.Fatal(err)
	}
	closeQuietly(second)
	old := time.Now().Add(-outputKept - time.Minute)
	if err := os.Chtimes(first.Name(), old, old); err != nil {
		t.Fatal(err)
	}
	third, err := newOutput(dir)
	if err != nil {
		t.Fatal(err)
	}
	closeQuietly(third)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if info, err := os.Stat(third.Name()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the output: %v, %v", info, err)
	}
}
