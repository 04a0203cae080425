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

// named is a file with a function of it, or with a method as Type.Name.
var named = regexp.MustCompile("`([\\w/]+\\.go)`\\s+`((?:\\w+\\.)?\\w+)`")

// missing are the pairs of a page, written `file` `function`, that are not there.
func missing(page string) (list []string) {
	for _, pair := range named.FindAllStringSubmatch(page, -1) {
		tree, err := parser.ParseFile(token.NewFileSet(), pair[1], nil, parser.SkipObjectResolution)
		if err != nil {
			list = append(list, err.Error())
			continue
		}
		if !declares(tree, pair[2]) {
			list = append(list, pair[1]+" has no "+pair[2])
		}
	}
	return list
}

// declares reports whether a file has a function, or a method as Type.Name.
func declares(tree *ast.File, name string) bool {
	for _, d := range tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		full := fn.Name.Name
		if fn.Recv != nil {
			full = receiver(fn.Recv.List[0].Type) + "." + full
		}
		if full == name {
			return true
		}
	}
	return false
}

// ARCHITECTURE.md names functions that exist, and at least one in each of its nine steps.
func TestArchitecture(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range missing(string(text)) {
		t.Error(m)
	}
	way, _, _ := strings.Cut(string(text), "\n## ")
	steps := regexp.MustCompile(`(?m)^\d\. `).Split(way, -1)[1:]
	if len(steps) != 9 {
		t.Fatalf("the way of a packet has %d steps, and not nine", len(steps))
	}
	for i, step := range steps {
		if !named.MatchString(step) {
			t.Errorf("step %d names no file with a function", i+1)
		}
	}
}

// Planted wrong pairs are found: a function, a type and a file that are not there.
func TestArchitectureFinds(t *testing.T) {
	page := "(`forward/input.go` `Path.Handle`, `forward/input.go`\n   `Path.Hurl`), `forward/input.go` `opens`, `forward/input.go` `Way.Handle`, `forward/none.go` `Path.Handle`"
	if found := missing(page); len(found) != 3 {
		t.Errorf("found %q", found)
	}
}
