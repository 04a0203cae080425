package ulvs_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/messages.golden anew, with what it says of messages that are still there")

const messagesFile = "testdata/messages.golden"

// verb is one of fmt's.
var verb = regexp.MustCompile(`%[-+# 0]*[\d*]*(?:\.[\d*]+)?[a-zA-Z]`)

// partsOf are the parts of a format that it always has.
func partsOf(format string) []string {
	return verb.Split(strings.ReplaceAll(format, "%%", "%"), -1)
}

// show is an expression's source, as far as names go.
func show(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return show(e.X) + "." + e.Sel.Name
	case *ast.CallExpr:
		return show(e.Fun) + "()"
	case *ast.BinaryExpr:
		return show(e.X) + "+" + show(e.Y)
	}
	return "_"
}

// linked are the folders that cmd/ulvs is made of.
func linked(all []file) []string {
	found := map[string]bool{}
	var walk func(string)
	walk = func(folder string) {
		if found[folder] {
			return
		}
		found[folder] = true
		for _, f := range all {
			for _, name := range f.imports {
				if ours, is := strings.CutPrefix(name, module); is && f.folder == folder && !f.test {
					walk(strings.TrimPrefix(ours, "/"))
				}
			}
		}
	}
	walk("cmd/ulvs")
	return slices.Sorted(maps.Keys(found))
}

// allMessages are those that the binary can say, each once, by package.
func allMessages(t *testing.T, all []file) (list []message) {
	t.Helper()
	for _, folder := range linked(all) {
		var of []file
		for _, f := range all {
			if f.folder == folder && !f.test {
				of = append(of, f)
			}
		}
		found := messagesOf(t, folder, of)
		slices.SortStableFunc(found, func(a, b message) int { return cmp.Compare(a.String(), b.String()) })
		for _, m := range found {
			if last := len(list) - 1; last >= 0 && list[last].folder == folder && list[last].String() == m.String() {
				list[last].names = append(list[last].names, m.names...)
				continue
			}
			list = append(list, m)
		}
	}
	return list
}

// tested is a file of tests: what it has in quotes, the names in it, and its tests.
type tested struct {
	folder  string
	quoted  string
	names   map[string]bool
	tests   []string
	inTests map[string]string // what a test has in quotes
	namesIn map[string]map[string]bool
}

func quotedIn(n ast.Node, names map[string]bool) string {
	var b strings.Builder
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			l, ok := n.X.(*ast.BasicLit)
			r, too := n.Y.(*ast.BasicLit)
			if ok && too && l.Kind == token.STRING && r.Kind == token.STRING {
				a, _ := strconv.Unquote(l.Value)
				z, _ := strconv.Unquote(r.Value)
				b.WriteString(a + z + "\n")
			}
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				b.WriteString(s + "\n")
			}
		case *ast.Ident:
			names[n.Name] = true
		}
		return true
	})
	return b.String()
}

// testsIn are the files of tests, and what lies in the testdata of each folder.
func testsIn(t *testing.T, all []file) (list []tested, data map[string][]datum) {
	t.Helper()
	data = map[string][]datum{}
	for _, f := range all {
		if !f.test {
			continue
		}
		if base := filepath.Base(f.path); base == "messages_test.go" || base == "law_messages_test.go" {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		x := tested{folder: f.folder, names: map[string]bool{}, inTests: map[string]string{}, namesIn: map[string]map[string]bool{}}
		x.quoted = quotedIn(tree, x.names)
		for _, d := range tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && regexp.MustCompile(`^(Test|Fuzz|Example)`).MatchString(fn.Name.Name) {
				x.tests = append(x.tests, fn.Name.Name)
				x.namesIn[fn.Name.Name] = map[string]bool{}
				x.inTests[fn.Name.Name] = quotedIn(fn, x.namesIn[fn.Name.Name])
			}
		}
		list = append(list, x)
		if _, done := data[f.folder]; !done {
			data[f.folder] = testdata(t, f.folder)
		}
	}
	return list, data
}

// datum is a file that tests compare with.
type datum struct{ path, text string }

func testdata(t *testing.T, folder string) (list []datum) {
	t.Helper()
	root := filepath.Join(folder, "testdata")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.ToSlash(path) == messagesFile {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<18 {
			return err
		}
		text, err := os.ReadFile(path)
		list = append(list, datum{path, string(text)})
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return list
}

// evidence is what shows that a text is a message and no other.
type evidence struct {
	marks  []string       // parts of it, or some words in a row, that no other message has
	few    []string       // likewise, and as few as two words: for who has looked at the test
	filled *regexp.Regexp // the whole of it, with anything in the place of its verbs
	names  []string
}

func (e *evidence) in(text string) bool {
	return slices.ContainsFunc(e.marks, func(s string) bool { return strings.Contains(text, s) }) ||
		e.filled != nil && e.filled.MatchString(text)
}

func evidenceOf(m message, all string) (e evidence) {
	e.marks, e.few, e.names = marks(m, all, 3, 16), marks(m, all, 2, 8), m.names
	if len(wordsOf(m.text)) > 1 {
		var parts []string
		for _, part := range partsOf(strings.TrimRight(m.text, " ")) {
			parts = append(parts, regexp.QuoteMeta(part))
		}
		e.filled = regexp.MustCompile(strings.Join(parts, "[^\n]*?"))
	}
	return e
}

// marks are parts of a message that no other has: whole ones, and those of so many words or
// bytes.
func marks(m message, all string, words, size int) (list []string) {
	if m.level != "error" && m.level != "stderr" {
		list = append(list, "msg="+m.text, "msg=\""+m.text)
	}
	others := func(s string) bool { return strings.Count(all, s) > strings.Count(m.text, s) }
	for _, part := range partsOf(m.text) {
		all := strings.Fields(part)
		for i := range all {
			for j := len(all); j > i; j-- {
				s := strings.Trim(strings.Join(all[i:j], " "), ":;,.()?")
				enough := j-i >= words || len(s) >= size || s == strings.Trim(part, " :;,.()?")
				if !enough || !strings.Contains(part, s) || others(s) {
					break // and so it is with fewer words
				}
				list = append(list, s)
			}
		}
	}
	return list
}

// shows reports whether a test's file has a message in quotes or by its name, or a file
// that it compares with has it.
func (x *tested) shows(e *evidence, quoted string, names map[string]bool, data []datum) bool {
	return e.in(quoted) || slices.ContainsFunc(e.names, func(n string) bool { return names[n] }) ||
		slices.ContainsFunc(data, func(d datum) bool { return x.reads(d.path, quoted) && e.in(d.text) })
}

// reads reports whether a test's file names a file of testdata, or its folder.
func (x *tested) reads(path, quoted string) bool {
	base := filepath.Base(path)
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	return strings.Contains(quoted, stem) || strings.Contains(quoted, filepath.Base(filepath.Dir(path))+"/")
}

// suggest is a test that seems to have a message, for whoever adds one.
func suggest(m message, e *evidence, list []tested, data map[string][]datum) string {
	best, at := "?", 0
	for _, x := range list {
		if x.folder != m.folder && x.folder != "cmd/ulvs" && x.folder != "director" {
			continue
		}
		named := func(names map[string]bool) bool {
			return slices.ContainsFunc(e.names, func(n string) bool { return names[n] })
		}
		inFile := e.in(x.quoted)
		for _, name := range x.tests {
			score, quoted := 0, x.inTests[name]
			switch {
			case e.in(quoted):
				score = 8
			case x.shows(e, quoted, nil, data[x.folder]):
				score = 6
			case named(x.namesIn[name]):
				score = 4
			case inFile || named(x.names):
				score = 2
			}
			if score > 0 && strings.HasPrefix(name, "Test") {
				score++
			}
			if score > 0 && x.folder == m.folder {
				score += 2
			}
			if score > at {
				best, at = strings.TrimSpace(x.folder+" "+name), score
			}
		}
	}
	return strings.TrimPrefix(best, m.folder+" ")
}

// golden is the file of messages: reasons by name, and what is said of each message.
type golden struct {
	head    string // all before the first package
	reasons map[string]string
	said    map[string]string // by package and message: a test, or a reason's name
}

func readGolden(t *testing.T) golden {
	t.Helper()
	text, err := os.ReadFile(messagesFile)
	if err != nil {
		t.Fatal(err)
	}
	g := golden{reasons: map[string]string{}, said: map[string]string{}}
	folder := ""
	for line := range strings.Lines(string(text)) {
		trimmed := strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(trimmed, "package "); ok {
			folder = name
			continue
		}
		if folder == "" {
			g.head += line
			if name, why, ok := strings.Cut(trimmed, ": "); ok && !strings.HasPrefix(line, "#") {
				g.reasons[name] = why
			}
			continue
		}
		if m, why, ok := strings.Cut(trimmed, "\" "); ok {
			keys, why, _ := strings.Cut(why, "-> ")
			g.said[folder+" "+strings.TrimSpace(m+"\" "+keys)] = why
		}
	}
	return g
}

// Every message that the binary can give is in testdata/messages.golden, with the test
// that provokes it, or the reason why none can. go test . -run TestMessages -update adds
// those that are new, with a test that seems to have them.
func TestMessages(t *testing.T) {
	all := sources(t)
	list := allMessages(t, all)
	tests, data := testsIn(t, all)
	g := readGolden(t)
	var want bytes.Buffer
	want.WriteString(g.head)
	var texts strings.Builder // each once: several packages may say the same
	seen := map[string]bool{}
	for _, m := range list {
		if !seen[m.text] {
			seen[m.text] = true
			texts.WriteString(m.text + "\n")
		}
	}
	folder := "none"
	for _, m := range list {
		if m.folder != folder {
			folder = m.folder
			fmt.Fprintf(&want, "package %s\n", cmp.Or(folder, "ulvs"))
		}
		key := cmp.Or(folder, "ulvs") + " " + m.String()
		e := evidenceOf(m, texts.String())
		said, known := g.said[key]
		if *update && (!known || said == "?") {
			said = suggest(m, &e, tests, data)
			known = true
		}
		fmt.Fprintf(&want, "\t%s -> %s\n", m, said)
		if !known {
			t.Errorf("%s: a new message: %s", m.pos, m)
			continue
		}
		delete(g.said, key)
		if err := judge(m, &e, said, g.reasons, tests, data); err != "" {
			t.Errorf("%s: %s: %s", m.pos, m, err)
		}
	}
	for key := range g.said {
		t.Errorf("a message that is gone: %s", key)
	}
	if *update {
		if err := os.WriteFile(messagesFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// judge says what is wrong with what the golden file says of a message.
func judge(
	m message, e *evidence, said string, reasons map[string]string, tests []tested, data map[string][]datum,
) string {
	if said == "" || said == "?" {
		return "give the test that provokes it, or a reason"
	}
	if reasons[said] != "" {
		return ""
	}
	in, name, other := strings.Cut(said, " ")
	if !other {
		in, name = m.folder, said
	}
	if in == "ulvs" {
		in = ""
	}
	for _, x := range tests {
		if x.folder == in && slices.Contains(x.tests, name) {
			e := evidence{e.few, nil, e.filled, e.names}
			if !x.shows(&e, x.quoted, x.names, data[x.folder]) {
				return said + " does not have it in quotes, nor has its testdata"
			}
			return ""
		}
	}
	return "there is neither a test nor a reason called " + said
}
