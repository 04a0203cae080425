package ulvs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// where is a file and a function of it, as ARCHITECTURE.md says them; white space may be a
// line's end.
var where = regexp.MustCompile("`([a-z0-9_/]+\\.go)`,\\s+`([A-Za-z0-9_.]+)`")

// lost are the functions that a text says to be in files where they are not.
func lost(t *testing.T, text string) (list []string) {
	t.Helper()
	for _, m := range where.FindAllStringSubmatch(text, -1) {
		if strings.HasSuffix(m[2], ".go") {
			continue // two files
		}
		tree, err := parser.ParseFile(token.NewFileSet(), m[1], nil, parser.SkipObjectResolution)
		if err != nil {
			list = append(list, m[1])
			continue
		}
		found := false
		for _, d := range tree.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := fn.Name.Name
			if fn.Recv != nil {
				name = receiver(fn.Recv.List[0].Type) + "." + name
			}
			found = found || name == m[2]
		}
		if !found {
			list = append(list, m[1]+" "+m[2])
		}
	}
	return list
}

// Each of the nine steps of a packet's way says in which file and function it is, and
// there it is; and so with all that ARCHITECTURE.md places.
func TestArchitecture(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lost(t, string(text)) {
		t.Errorf("ARCHITECTURE.md: not there: %s", l)
	}
	steps := regexp.MustCompile(`(?m)^(\d)\. `).FindAllStringIndex(string(text), -1)
	if len(steps) != 9 {
		t.Fatalf("there are %d steps, not nine", len(steps))
	}
	for i, at := range steps {
		step, _, _ := strings.Cut(string(text[at[0]:]), "\n\n")
		if i+1 < len(steps) {
			step = string(text[at[0]:steps[i+1][0]])
		}
		if !where.MatchString(step) {
			t.Errorf("step %d says no file and function", i+1)
		}
	}
	if found := lost(t, "`forward/input.go`, `Path.nowhere` and `no/such.go`, `f`"); len(found) != 2 {
		t.Errorf("of two planted ones found %q", found)
	}
}
