package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// results are what one file holds: what is known about the machine, and benchmarks in
// the order in which they ran.
type results struct {
	name   string
	config map[string]string
	rows   []*row
}

// row is a benchmark, with all its results by unit.
type row struct {
	path   []string // the name's parts: Decision, established, 65536
	values map[string][]float64
}

// read reads a file of results.
func read(files fs.FS, name string) (*results, error) {
	f, err := files.Open(resultsDir + "/" + name + ".txt")
	if err != nil {
		return nil, fmt.Errorf("%w: record it first, with make", err)
	}
	defer f.Close()
	r := &results{name: name, config: make(map[string]string)}
	rows := make(map[string]*row)
	reader := benchfmt.NewReader(f, name)
	for reader.Scan() {
		switch rec := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, rec
		case *benchfmt.Result:
			for _, c := range rec.Config {
				if c.File {
					r.config[c.Key] = string(c.Value)
				}
			}
			full := strings.TrimSuffix(string(rec.Name.Full()), suffix(rec.Name))
			at := rows[full]
			if at == nil {
				at = &row{path: strings.Split(full, "/"), values: make(map[string][]float64)}
				rows[full] = at
				r.rows = append(r.rows, at)
			}
			for _, v := range rec.Values {
				value, unit := v.Value, v.Unit
				if v.OrigUnit != "" { // seconds, where the benchmark printed ns
					value, unit = v.OrigValue, v.OrigUnit
				}
				at.values[unit] = append(at.values[unit], value)
			}
		}
	}
	if err := reader.Err(); err != nil {
		return nil, err
	}
	if len(r.rows) == 0 {
		return nil, errors.New(resultsDir + "/" + name + ".txt has no results")
	}
	return r, nil
}

// suffix is the number of processors at the end of a name.
func suffix(n benchfmt.Name) string {
	_, parts := n.Parts()
	if len(parts) > 0 {
		if last := string(parts[len(parts)-1]); strings.HasPrefix(last, "-") {
			return last
		}
	}
	return ""
}

// below are the rows whose names begin with path, which is left out of theirs; but a
// row that is path itself keeps its last part.
func (r *results) below(path string) (list []*row, err error) {
	under := strings.Split(path, "/")
	for _, row := range r.rows {
		if len(row.path) >= len(under) && slices.Equal(row.path[:len(under)], under) {
			list = append(list, row.without(min(len(under), len(row.path)-1)))
		}
	}
	if list == nil {
		return nil, fmt.Errorf("%s/%s.txt has nothing below %q", resultsDir, r.name, path)
	}
	return list, nil
}

func (r *row) without(n int) *row { return &row{path: r.path[n:], values: r.values} }

// median is the median of a row's results in a unit, with the interval in which it lies
// with a confidence of 95 %, whatever the distribution. That takes six results.
func (r *row) median(unit string) (m benchmath.Summary, ok bool) {
	list := slices.Clone(r.values[unit])
	if len(list) == 0 {
		return benchmath.Summary{}, false
	}
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(list, &benchmath.DefaultThresholds), 0.95), true
}
