package ulvs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// lockers are the functions of a source that take or give back the forwarding lock.
func lockers(t *testing.T, f file) (list []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "fwd" && !slices.Contains(list, fn.Name.Name) {
				list = append(list, fn.Name.Name)
			}
			return true
		})
	}
	return list
}

// One function takes the forwarding lock and one gives it back, so that nobody sees the
// tables without what the plane has opened meanwhile.
func TestForwardingLock(t *testing.T) {
	var all []string
	for _, f := range sources(t) {
		if f.folder == "forward" {
			all = append(all, lockers(t, f)...)
		}
	}
	if slices.Sort(all); !slices.Equal(all, []string{"lock", "unlock"}) {
		t.Errorf("the forwarding lock is taken or given back in %q", all)
	}
}

// A planted function that takes it by itself is found.
func TestForwardingLockFinds(t *testing.T) {
	planted := file{path: "planted.go", text: "package forward\nfunc (p *Path) sly() { p.fwd.Lock() }\n"}
	if found := lockers(t, planted); !slices.Equal(found, []string{"sly"}) {
		t.Errorf("found %q", found)
	}
}
