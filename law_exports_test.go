package ulvs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// embedders are the packages that others build upon.
var embedders = []string{"", "director", "sched", "fwmark", "dataplane", "dataplane/afpacket", "dataplane/auto", "dataplane/neigh", "dataplane/xdp", "dataplane/dataplanetest"}

// serving are the methods of the interfaces of internal/accel, whose types are internal.
func serving(t *testing.T) (names []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), "internal/accel/accel.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		if i, ok := n.(*ast.InterfaceType); ok {
			for _, m := range i.Methods.List {
				for _, name := range m.Names {
					names = append(names, name.Name)
				}
			}
		}
		return true
	})
	return names
}

// internals are the exported signatures and fields of a source that name an internal type.
func internals(t *testing.T, f file, except []string) (list []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string]bool{}
	for _, i := range tree.Imports {
		if full, _ := strconv.Unquote(i.Path.Value); strings.Contains(full, "/internal/") {
			name := path.Base(full)
			if i.Name != nil {
				name = i.Name.Name
			}
			imports[name] = true
		}
	}
	names := func(n ast.Node) (found bool) {
		if n == nil {
			return false
		}
		ast.Inspect(n, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && imports[x.Name] {
					found = true
				}
			}
			return true
		})
		return found
	}
	spec := func(s ast.Spec) {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if !s.Name.IsExported() {
				return
			}
			fields, isStruct := s.Type.(*ast.StructType)
			if !isStruct {
				if names(s.Type) {
					list = append(list, s.Name.Name)
				}
				return
			}
			for _, field := range fields.Fields.List {
				exported := len(field.Names) == 0 || slices.ContainsFunc(field.Names, (*ast.Ident).IsExported)
				if exported && names(field.Type) {
					list = append(list, s.Name.Name+"'s fields")
				}
			}
		case *ast.ValueSpec:
			if slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) && s.Type != nil && names(s.Type) {
				list = append(list, s.Names[0].Name)
			}
		}
	}
	for _, d := range tree.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv != nil && !ast.IsExported(receiver(d.Recv.List[0].Type)) || !d.Name.IsExported() || slices.Contains(except, d.Name.Name) {
				continue
			}
			if names(d.Type) {
				list = append(list, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				spec(s)
			}
		}
	}
	return list
}

// In packages for embedders no exported signature or field names an internal type, which
// they could not name themselves.
func TestExports(t *testing.T) {
	except := serving(t)
	if !slices.Contains(except, "SetOpening") {
		t.Fatalf("the interfaces of internal/accel have methods %q", except)
	}
	for _, f := range sources(t) {
		if f.test || !slices.Contains(embedders, f.folder) {
			continue
		}
		for _, name := range internals(t, f, except) {
			t.Errorf("%s: %s names an internal type", f.path, name)
		}
	}
}

// Planted ones are found.
func TestExportsFinds(t *testing.T) {
	planted := file{path: "planted.go", text: `package p
import "example.com/x/internal/thing"
type T struct { Open thing.One; hidden thing.Two }
type U func(thing.One)
type v struct { Open thing.One }
var W thing.One
func Give() *thing.One { return nil }
func (T) Take([]thing.One) {}
func (v) Take(thing.One) {}
func Serve(thing.One) {}
func own(thing.One) {}
`}
	if found := internals(t, planted, []string{"Serve"}); !slices.Equal(found, []string{"T's fields", "U", "W", "Give", "Take"}) {
		t.Errorf("found %q", found)
	}
}

// abilities are what a plane can do or not: there always is an object that does it, or
// nothing.
var abilities = map[string]bool{"mirror": true, "starting": true, "opener": true, "fast": true, "effects": true, "resolver": true}

// nilAbilities are the comparisons with nil of one of them.
func nilAbilities(t *testing.T, f file) (list []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	last := func(e ast.Expr) string {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.SelectorExpr:
			return x.Sel.Name
		}
		return ""
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		b, ok := n.(*ast.BinaryExpr)
		if ok && (b.Op == token.EQL || b.Op == token.NEQ) && (last(b.X) == "nil" || last(b.Y) == "nil") {
			for _, e := range []ast.Expr{b.X, b.Y} {
				if abilities[last(e)] {
					list = append(list, last(e))
				}
			}
		}
		return true
	})
	return list
}

// Nobody asks whether a plane is able to do something: it has an object that does.
func TestAbilities(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || f.folder != "forward" && f.folder != "director" {
			continue
		}
		for _, name := range nilAbilities(t, f) {
			t.Errorf("%s compares %s with nil", f.path, name)
		}
	}
	planted := file{path: "planted.go", text: "package p\nfunc f() bool { return p.mirror != nil && nil == opener && other == nil }\n"}
	if found := nilAbilities(t, planted); !slices.Equal(found, []string{"mirror", "opener"}) {
		t.Errorf("found %q", found)
	}
}

// What a client of a daemon needs knows nothing of the engine, by way of anything.
func TestClientDeps(t *testing.T) {
	reaches := func(folder string) map[string]bool {
		all := map[string]bool{}
		var walk func(string)
		walk = func(folder string) {
			for _, f := range sources(t) {
				if f.folder != folder || f.test {
					continue
				}
				for _, name := range f.imports {
					ours, is := strings.CutPrefix(name, module)
					if ours = strings.TrimPrefix(ours, "/"); is && !all[ours] {
						all[ours] = true
						walk(ours)
					}
				}
			}
		}
		walk(folder)
		return all
	}
	for _, client := range []string{"internal/ipvsadm", "internal/control"} {
		all := reaches(client)
		for _, engine := range []string{"forward", "director", "conn", "persist"} {
			if all[engine] {
				t.Errorf("%s imports %s, by way of %q", client, engine, slices.Sorted(maps.Keys(all)))
			}
		}
	}
	if all := reaches("director"); !all["forward"] || !all["persist"] {
		t.Errorf("director reaches %q: the walk is wrong", slices.Sorted(maps.Keys(all)))
	}
}
