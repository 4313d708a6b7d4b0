package ledger

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func record(session string) Record {
	return Record{
		Session:    session,
		Created:    time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Target:     "deployment/service-a:app",
		Namespace:  "default",
		Connection: json.RawMessage(`{"context":"c"}`),
	}
}

func open(t *testing.T) *Ledger {
	t.Helper()
	l, err := Open(filepath.Join(t.TempDir(), "state", "sessions"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStepsSurviveTheirProcess(t *testing.T) {
	l := open(t)
	e, err := l.Begin(record("k3f9qz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mark", "agent"} {
		if err := e.Append(Step{Name: name, Undo: json.RawMessage(`{"n":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Take("k3f9qz"); !errors.Is(err, ErrHeld) {
		t.Fatalf("take of a held record: %v, want ErrHeld", err)
	}
	if err := e.Release(); err != nil { // what the kernel does for a dead process
		t.Fatal(err)
	}
	taken, err := l.Take("k3f9qz")
	if err != nil {
		t.Fatal(err)
	}
	got := taken.Record()
	if len(got.Steps) != 2 || got.Steps[0].Name != "mark" || got.Steps[1].Name != "agent" {
		t.Fatalf("steps %+v, want mark and agent", got.Steps)
	}
	if err := taken.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take("k3f9qz"); !errors.Is(err, ErrGone) {
		t.Fatalf("take of a forgotten record: %v, want ErrGone", err)
	}
	left, err := os.ReadDir(l.dir)
	if err != nil || len(left) != 0 {
		t.Fatalf("left after forgetting: %v, %v; want nothing", left, err)
	}
}

func TestFilesAreTheUsersAlone(t *testing.T) {
	l := open(t)
	if _, err := l.Begin(record("abc234")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{
		l.dir:                          0o700,
		l.path("abc234", recordSuffix): 0o600,
		l.path("abc234", lockSuffix):   0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s is %o, want %o", path, got, want)
		}
	}
}

func TestRecordsReportsDamageAndGoesOn(t *testing.T) {
	l := open(t)
	for _, id := range []string{"aaaaaa", "bbbbbb"} {
		r := record(id)
		if id == "aaaaaa" {
			r.Created = r.Created.Add(time.Hour)
		}
		if _, err := l.Begin(r); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string]string{
		"cccccc.json":          "{",
		"dddddd.json":          `{"session":"other"}`,
		"eeeeee.json.1234.tmp": "half",
	} {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records, err := l.Records()
	if err == nil {
		t.Error("damaged records were not reported")
	}
	if len(records) != 2 || records[0].Session != "bbbbbb" || records[1].Session != "aaaaaa" {
		t.Errorf("records %+v, want bbbbbb (older), then aaaaaa", records)
	}
}

func TestOpenClearsAwayWhatTheDeadLeft(t *testing.T) {
	l := open(t)
	held, err := l.Begin(record("aaaaaa"))
	if err != nil {
		t.Fatal(err)
	}
	dead, err := l.Begin(record("bbbbbb"))
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Release(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cccccc.lock", "dddddd.json.123.tmp", "bbbbbb.json.9.tmp", "aaaaaa.json.5.tmp"} {
		if err := os.WriteFile(filepath.Join(l.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(l.dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	left, err := os.ReadDir(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		got = append(got, e.Name())
	}
	want := []string{"aaaaaa.json", "aaaaaa.json.5.tmp", "aaaaaa.lock", "bbbbbb.json", "bbbbbb.lock"}
	if !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if err := held.Forget(); err != nil {
		t.Fatal(err)
	}
}

func TestSessionIDsStayInTheDirectory(t *testing.T) {
	l := open(t)
	for _, id := range []string{"", "../x", "a/b", "A", "x.json"} {
		if _, err := l.Begin(record(id)); err == nil {
			t.Errorf("Begin(%q) was accepted", id)
		}
		if _, err := l.Take(id); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("Take(%q): %v, want a refusal of the name", id, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := json.Marshal(record("k3f9qz"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"session":"k3f9qz","steps":[{"name":"mark","undo":null}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode("k3f9qz", data)
		if err == nil && r.Session != "k3f9qz" {
			t.Errorf("accepted a record of session %q", r.Session)
		}
	})
}
