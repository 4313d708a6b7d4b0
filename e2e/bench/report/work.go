package report

import (
	"fmt"
	"strings"

	"github.com/teleswap/teleswap/e2e/bench/stats"
)

// Work is something that people do all day, timed on the laptop and in the sandbox of a swap, in
// turns. All times are in milliseconds.
type Work struct {
	Name string `json:"name"`
	// Outside is on the laptop; nil where there is nothing to compare with. Inside is in the
	// sandbox. Where both are, times of the same index were taken one after the other.
	Outside []float64 `json:"outside,omitempty"`
	Inside  []float64 `json:"inside"`
	// AtMost is the target: of the median ratio, or, without Outside, of Inside's median. Zero: none.
	AtMost float64 `json:"atMost"`
	Error  string  `json:"error,omitempty"`
}

// value is what the target is for.
func (w Work) value() (float64, bool) {
	if w.Error != "" || len(w.Inside) == 0 {
		return 0, false
	}
	if w.Outside == nil {
		return stats.Summarise(w.Inside).Median, true
	}
	var ratios []float64
	for i := range min(len(w.Inside), len(w.Outside)) {
		if w.Outside[i] > 0 {
			ratios = append(ratios, w.Inside[i]/w.Outside[i])
		}
	}
	return stats.Summarise(ratios).Median, len(ratios) > 0
}

// verdict is fatal for ratios only, which are to what is done by than: machines differ.
func (w Work) verdict(than string) Verdict {
	v := Verdict{Name: "in the sandbox: " + w.Name, Target: w.AtMost, Fatal: w.Outside != nil}
	value, ok := w.value()
	if !ok {
		v.Text = fmt.Sprintf("%s: not measured: %s", v.Name, w.Error)
		return v
	}
	v.Value, v.OK = value, value <= w.AtMost
	if w.Outside == nil {
		v.Text = fmt.Sprintf("%s: %s ms (target: at most %s ms)", v.Name, number(value), number(w.AtMost))
	} else {
		v.Text = fmt.Sprintf("%s: %.2fx of %s (target: at most %.2fx)", v.Name, value, than, w.AtMost)
	}
	return v
}

func (r *Report) writeWork(b *strings.Builder) {
	if len(r.Work) > 0 {
		writeWorkTable(b, "Work in the sandbox, medians", "outside, ms", r.Work)
	}
	if len(r.Files) > 0 {
		writeWorkTable(b, "Files of a volume, medians", "by kubectl exec, ms", r.Files)
	}
}

func writeWorkTable(b *strings.Builder, title, outside string, all []Work) {
	b.WriteString("\n" + title + "\n\n")
	var rows [][]string
	for _, w := range all {
		ratio := "—"
		if value, ok := w.value(); ok && w.Outside != nil {
			ratio = fmt.Sprintf("%.2f", value)
		}
		if w.Error != "" {
			ratio = w.Error
		}
		rows = append(rows, []string{w.Name, cell(stats.Summarise(w.Outside)), cell(stats.Summarise(w.Inside)), ratio})
	}
	writeTable(b, []string{"", outside, "inside, ms", "median ratio"}, rows)
}
