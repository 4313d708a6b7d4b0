package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/teleswap/teleswap/e2e/bench/stats"
)

// JSON prints the report with every sample.
func (r *Report) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

// Markdown prints the report as tables: medians with their spread, ratios,
// the swap step by step, and the verdicts.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Machine {
		fmt.Fprintf(&b, "- %s: %s\n", f.Name, f.Value)
	}
	if len(r.Ways) > 0 {
		fmt.Fprintf(&b, "\nMedians of %d rounds, interleaved, %s each (least–most in brackets); down is towards the laptop\n\n", r.Rounds, r.Duration)
		r.writeMedians(&b)
		r.writeRatios(&b)
		r.writeFailures(&b)
	}
	if len(r.Swaps) > 0 {
		r.writeSwaps(&b)
	}
	r.writeWork(&b)
	if len(r.Verdicts) > 0 {
		b.WriteString("\nVerdicts\n\n")
		for _, v := range r.Verdicts {
			b.WriteString("- " + v.line() + "\n")
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	return nil
}

func (r *Report) writeMedians(b *strings.Builder) {
	head := []string{"", "unit"}
	for _, way := range r.Ways {
		head = append(head, way.Name)
	}
	var rows [][]string
	for _, m := range Metrics() {
		if !r.tried(m) {
			continue
		}
		row := []string{m.Title, m.Unit}
		for _, way := range r.Ways {
			row = append(row, cell(way.Summary(m.Key)))
		}
		rows = append(rows, row)
	}
	writeTable(b, head, rows)
}

// writeRatios compares each way with the limit and with PortForward, where
// those were measured.
func (r *Report) writeRatios(b *strings.Builder) {
	type pair struct{ way, base Way }
	var pairs []pair
	head := []string{"median of the rounds' ratios"}
	for _, way := range r.Ways {
		for _, name := range []string{Limit, PortForward} {
			base, ok := r.Way(name)
			if !ok || way.Name == Limit || way.Name == name {
				continue
			}
			pairs = append(pairs, pair{way, base})
			head = append(head, way.Name+" ÷ "+name)
		}
	}
	if len(pairs) == 0 {
		return
	}
	var rows [][]string
	for _, m := range Metrics() {
		if !r.tried(m) {
			continue
		}
		row := []string{m.Title}
		for _, p := range pairs {
			text := "—"
			if x, ok := ratio(p.way, p.base, m.Key); ok {
				text = number(x)
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	b.WriteString("\n")
	writeTable(b, head, rows)
}

func (r *Report) writeFailures(b *strings.Builder) {
	var lines []string
	for _, way := range r.Ways {
		for _, m := range Metrics() {
			for _, f := range way.Failures(m.Key) {
				lines = append(lines, fmt.Sprintf("- %s, %s, %d of %d: %s\n",
					way.Name, m.Title, f.Times, len(way.Samples[m.Key]), f.Error))
			}
		}
		if way.Note != "" {
			lines = append(lines, fmt.Sprintf("- %s: %s\n", way.Name, way.Note))
		}
	}
	if len(lines) > 0 {
		b.WriteString("\nOf note\n\n" + strings.Join(lines, ""))
	}
}

func (r *Report) writeSwaps(b *strings.Builder) {
	fmt.Fprintf(b, "\nThe swap, medians of %d\n\n", len(r.Swaps))
	var rows [][]string
	rows = append(rows, r.stepRows("step ", func(s Swap) []Step { return s.Steps })...)
	rows = append(rows, r.stepRows("undo of ", func(s Swap) []Step { return s.Undos })...)
	for _, row := range []struct {
		title string
		value func(Swap) float64
	}{
		{"typed → local process runs", func(s Swap) float64 { return s.Started }},
		{"typed → first request answered by it", func(s Swap) float64 { return s.Answered }},
		{"typed → the command says swapped", func(s Swap) float64 { return s.Swapped }},
		{"its end → first request answered by the original", func(s Swap) float64 { return s.Back }},
		{"its end → the command ends, all restored", func(s Swap) float64 { return s.Restored }},
	} {
		rows = append(rows, []string{row.title, cell(r.swapSummary(row.value))})
	}
	writeTable(b, []string{"", "ms"}, rows)
	lost := 0
	for i, s := range r.Swaps {
		lost += s.Lost
		for _, text := range s.Losses {
			fmt.Fprintf(b, "\n- swap %d lost requests, first %s\n", i+1, text)
		}
		if s.Error != "" {
			fmt.Fprintf(b, "\n- swap %d failed: %s\n", i+1, s.Error)
		}
	}
	fmt.Fprintf(b, "\nRequests that failed meanwhile: %d\n", lost)
}

// stepRows has a row for each step, in the order of the first swap that has it.
func (r *Report) stepRows(title string, steps func(Swap) []Step) [][]string {
	var names []string
	values := map[string][]float64{}
	for _, s := range r.Swaps {
		for _, step := range steps(s) {
			if values[step.Name] == nil {
				names = append(names, step.Name)
			}
			values[step.Name] = append(values[step.Name], step.Milliseconds)
		}
	}
	var rows [][]string
	for _, name := range names {
		rows = append(rows, []string{title + name, cell(stats.Summarise(values[name]))})
	}
	return rows
}

func cell(s stats.Summary) string {
	switch {
	case s.Count == 0:
		return "—"
	case s.Count == 1 || s.Min == s.Max:
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// number has three digits that count, which is more than such measurements
// are worth.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

func writeTable(b *strings.Builder, head []string, rows [][]string) {
	widths := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)))
		}
	}
	write := func(row []string) {
		for i, text := range row {
			b.WriteString("| " + text + strings.Repeat(" ", widths[i]-len([]rune(text))+1))
		}
		b.WriteString("|\n")
	}
	write(head)
	for _, width := range widths {
		b.WriteString("|" + strings.Repeat("-", width+2))
	}
	b.WriteString("|\n")
	for _, row := range rows {
		write(row)
	}
}
