package ulvs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// retired are words that this project made up, and what the field calls the thing
// (CONTRIBUTING.md has a glossary). No identifier is one of them, nor begins or ends with
// one.
var retired = map[string]string{
	"making": "opening", "maker": "opener", "untaken": "pending", "thirsty": "low", "quench": "refill", "gather": "drain",
	"loan": "slot pool", "lend": "reserve", "takeback": "unreserve", "testator": "handover", "heir": "handoverer",
	"attend": "heartbeat", "unattended": "heartbeat timeout", "ahead": "prefetch, or picks", "goon": "restore position",
	"replaying": "what is not attached yet", "standsfor": "answers for", "turning": "uses picks", "meet": "overlap",
}

// words are the parts of an identifier, in lower case: "stackHome" is stack, home.
func words(name string) (list []string) {
	from := 0
	for i, r := range name {
		if i > from && r >= 'A' && r <= 'Z' && (name[i-1] < 'A' || name[i-1] > 'Z') {
			list = append(list, strings.ToLower(name[from:i]))
			from = i
		}
	}
	return append(list, strings.ToLower(name[from:]))
}

// retiredIn are the identifiers of a source that have a retired word.
func retiredIn(t *testing.T, f file) (list []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		if !ok || slices.Contains(list, id.Name) {
			return true
		}
		whole := strings.ToLower(id.Name)
		for _, w := range append(words(id.Name), whole) {
			if retired[w] != "" {
				list = append(list, id.Name)
				break
			}
		}
		return true
	})
	return list
}

func TestRetiredWords(t *testing.T) {
	for _, f := range sources(t) {
		for _, name := range retiredIn(t, f) {
			for _, w := range append(words(name), strings.ToLower(name)) {
				if instead := retired[w]; instead != "" {
					t.Errorf("%s: %s: the word is %s", f.path, name, instead)
				}
			}
		}
	}
}

// A planted word is found, alone and in a name.
func TestRetiredWordsFinds(t *testing.T) {
	planted := file{path: "planted.go", text: "package p\nvar quench, takeLoan, Attended, attention, goOn int\n"}
	if found := retiredIn(t, planted); !slices.Equal(found, []string{"quench", "takeLoan", "goOn"}) {
		t.Errorf("found %q", found)
	}
}
