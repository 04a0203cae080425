package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/perf/benchmath"
)

//go:embed page.tmpl
var pageText string

// render makes the page and its plots, by file name.
func render(files fs.FS) (map[string][]byte, error) {
	p := &pageOf{files: files, loaded: make(map[string]*results), out: make(map[string][]byte)}
	t, err := template.New(page).Funcs(template.FuncMap{
		"table": p.table, "pivot": p.pivot, "bars": p.bars, "value": p.value, "about": p.about, "has": p.has,
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, err
	}
	p.out[page] = b.Bytes()
	return p.out, nil
}

// pageOf is the page being written.
type pageOf struct {
	files  fs.FS
	loaded map[string]*results
	out    map[string][]byte
}

func (p *pageOf) below(file, path string) ([]*row, error) {
	r, err := p.results(file)
	if err != nil {
		return nil, err
	}
	return r.below(path)
}

func (p *pageOf) results(file string) (*results, error) {
	if r := p.loaded[file]; r != nil {
		return r, nil
	}
	r, err := read(p.files, file)
	if err != nil {
		return nil, err
	}
	p.loaded[file] = r
	return r, nil
}

// has reports whether a file of results is there.
func (p *pageOf) has(file string) bool {
	_, err := fs.Stat(p.files, resultsDir+"/"+file+".txt")
	return err == nil
}

// about says what a file's results come from.
func (p *pageOf) about(file, target string) (string, error) {
	r, err := p.results(file)
	if err != nil {
		return "", err
	}
	c := r.config
	cpu := c["cpu"]
	if cpu == "" {
		cpu = "the processor of the host"
	}
	runs := ""
	if n := c["times"]; n != "" && n != "1" {
		runs = "medians of " + n + " runs, "
	}
	return fmt.Sprintf("`%s` (%s%s, commit %s, %s × %s, Linux %s, %s); raw: [%s](%s/%s.txt)",
		target, runs, c["date"], c["commit"], c["cpus"], cpu, c["kernel"], c["go"], file, resultsDir, file), nil
}

// table has a line for each benchmark below path, and a column for each unit, given
// as "unit" or "unit=heading".
func (p *pageOf) table(file, path string, units ...string) (string, error) {
	rows, err := p.below(file, path)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| |")
	for _, u := range units {
		_, heading := split(u)
		fmt.Fprintf(&b, " %s |", heading)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(units)) + "\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", label(strings.Join(r.path, ", ")))
		for _, u := range units {
			unit, _ := split(u)
			fmt.Fprintf(&b, " %s |", r.judged(unit))
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// judged is a figure, with its limit and whether it holds, if the benchmark has "limit-" and the
// unit for it.
func (r *row) judged(unit string) string {
	limit, ok := r.median("limit-" + unit)
	if !ok {
		return r.text(unit)
	}
	word := "pass"
	if m, _ := r.median(unit); m.Center > limit.Center {
		word = "**fail**"
	}
	return fmt.Sprintf("%s (at most %s: %s)", r.text(unit), number(limit.Center), word)
}

// pivot has a line for each name below path but for its last part, and a column for
// each last part that has values in the unit.
func (p *pageOf) pivot(file, path, unit string) (string, error) {
	rows, err := p.below(file, path)
	if err != nil {
		return "", err
	}
	rows = slices.DeleteFunc(rows, func(r *row) bool { return len(r.values[unit]) == 0 })
	if len(rows) == 0 {
		return "", fmt.Errorf("nothing below %s in %s has a %s", path, file, unit)
	}
	lines, columns, at := crossed(rows)
	var b strings.Builder
	b.WriteString("| |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(columns)) + "\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "| %s |", label(l))
		for _, c := range columns {
			text := ""
			if r := at[l+"/"+c]; r != nil {
				text = r.text(unit)
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// crossed takes names apart: the last part, and what is before it.
func crossed(rows []*row) (lines, columns []string, at map[string]*row) {
	at = make(map[string]*row)
	for _, r := range rows {
		n := len(r.path) - 1
		line, column := strings.Join(r.path[:n], ", "), r.path[n]
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
		if !slices.Contains(columns, column) {
			columns = append(columns, column)
		}
		at[line+"/"+column] = r
	}
	return lines, columns, at
}

// bars is a plot of what pivot shows.
func (p *pageOf) bars(file, path, unit, title string) (string, error) {
	rows, err := p.below(file, path)
	if err != nil {
		return "", err
	}
	lines, columns, at := crossed(rows)
	c := chart{title: title, unit: unit, series: columns}
	for _, l := range lines {
		g := group{name: label(l)}
		for _, column := range columns {
			v := 0.0
			if r := at[l+"/"+column]; r != nil {
				m, _ := r.median(unit)
				v = m.Center
			}
			g.values = append(g.values, v)
		}
		c.groups = append(c.groups, g)
	}
	name := plotsDir + "/" + strings.ToLower(strings.ReplaceAll(file+"-"+path, "/", "-")) + ".svg"
	p.out[name] = c.svg()
	return fmt.Sprintf("![%s](%s)", title, name), nil
}

// value is one figure.
func (p *pageOf) value(file, name, unit string) (string, error) {
	r, err := p.results(file)
	if err != nil {
		return "", err
	}
	for _, row := range r.rows {
		if strings.Join(row.path, "/") == name {
			if text := row.text(unit); text != "" {
				return text, nil
			}
			return "", fmt.Errorf("%s in %s has no %s, but %v", name, file, unit, slices.Sorted(maps.Keys(row.values)))
		}
	}
	return "", fmt.Errorf("%s is not in %s", name, file)
}

func (r *row) text(unit string) string {
	m, ok := r.median(unit)
	if !ok {
		return ""
	}
	return number(m.Center) + interval(m)
}

// interval is how far a median may be off, " ± 2 %"; "" where that is not known.
func interval(m benchmath.Summary) string {
	if m.Center == 0 || math.IsInf(m.Lo, 0) || math.IsInf(m.Hi, 0) || m.Lo == m.Hi {
		return ""
	}
	off := max(m.Center-m.Lo, m.Hi-m.Center) / math.Abs(m.Center)
	return fmt.Sprintf(" ± %.0f %%", math.Ceil(100*off))
}

// number has three digits that mean something.
func number(v float64) string {
	switch {
	case v < 0:
		return "-" + number(-v)
	case v >= 1000:
		return grouped(strconv.FormatFloat(v, 'f', 0, 64))
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 2, 64), ".00")
}

// grouped puts commas between thousands.
func grouped(digits string) string {
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// label makes numbers in a name readable.
func label(name string) string {
	parts := strings.Split(name, ", ")
	for i, part := range parts {
		if n, err := strconv.ParseUint(part, 10, 64); err == nil && n >= 1000 {
			parts[i] = grouped(part)
		}
	}
	return strings.Join(parts, ", ")
}

func split(column string) (unit, heading string) {
	unit, heading, ok := strings.Cut(column, "=")
	if !ok {
		heading = unit
	}
	return unit, heading
}
