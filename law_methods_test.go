package ulvs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"testing"
)

// mostMethods is how many methods may be declared on a type: beyond, it is several.
const mostMethods = 40

// methods counts the methods that are declared on each type of the sources that are no
// tests, by folder and name.
func methods(t *testing.T, list []file) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, f := range list {
		if f.test {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil {
				count[f.folder+"."+receiver(fn.Recv.List[0].Type)]++
			}
		}
	}
	return count
}

// receiver is the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.IndexListExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// tooMany are the types with more methods than they may have.
func tooMany(count map[string]int) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(count)) {
		if count[name] > mostMethods {
			list = append(list, name)
		}
	}
	return list
}

func TestMethods(t *testing.T) {
	count := methods(t, sources(t))
	for _, name := range tooMany(count) {
		t.Errorf("%s has %d methods, the limit is %d: split, do not raise", name, count[name], mostMethods)
	}
}

// A planted type with one method too many is found.
func TestMethodsFinds(t *testing.T) {
	text := "package p\ntype big[T any] struct{}\n"
	for i := range mostMethods + 1 {
		text += "func (b *big[T]) m" + string(rune('A'+i/26)) + string(rune('a'+i%26)) + "() {}\n"
	}
	count := methods(t, []file{{path: "planted.go", folder: "p", text: text}})
	if found := tooMany(count); !slices.Equal(found, []string{"p.big"}) {
		t.Errorf("found %q in %v", found, count)
	}
}
