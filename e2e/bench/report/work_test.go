package report

import (
	"strings"
	"testing"
)

func TestWork(t *testing.T) {
	for _, tt := range []struct {
		name  string
		work  Work
		ok    bool
		value float64
		fatal bool
	}{
		{"slower", Work{Outside: []float64{100, 200, 100}, Inside: []float64{110, 200, 120}, AtMost: 1.05}, false, 1.1, true},
		{"as fast", Work{Outside: []float64{100, 200, 100}, Inside: []float64{104, 204, 103}, AtMost: 1.05}, true, 1.03, true},
		{"by itself", Work{Inside: []float64{1, 3, 2}, AtMost: 2}, true, 2, false},
		{"failed", Work{Error: "no npm"}, false, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := tt.work.verdict("outside")
			if v.OK != tt.ok || v.Value != tt.value || v.Fatal != tt.fatal {
				t.Errorf("got %+v", v)
			}
		})
	}
	var b strings.Builder
	r := &Report{
		Work:  []Work{{Name: "compile", Outside: []float64{10}, Inside: []float64{20}, AtMost: 1}, {Name: "install", Error: "no npm"}},
		Files: []Work{{Name: "read", Outside: []float64{10}, Inside: []float64{30}, AtMost: 2}, {Name: "look", Outside: []float64{7}, Inside: []float64{1}}},
	}
	if err := r.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| compile | 10.0", "2.00", "no npm", "by kubectl exec, ms", "| look | 7.00"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
	r.Judge(Targets{})
	if len(r.Verdicts) != 3 || r.Verdicts[0].OK || r.Verdicts[1].OK || !strings.Contains(r.Verdicts[2].Text, "3.00x of kubectl exec") {
		t.Errorf("verdicts %+v", r.Verdicts)
	}
}
