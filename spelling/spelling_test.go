package spelling

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"deployment", "namespace", "run", "context"}
	for word, want := range map[string]string{
		"deploymnt": "deployment", "deploy": "deployment", "contxt": "context", "run": "run", "xyzzy": "", "": "",
	} {
		if got := Nearest(word, names); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"kitten", "sitting", 3}, {"same", "same", 0}} {
		if got := Distance(c.a, c.b); got != c.want || Distance(c.b, c.a) != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
