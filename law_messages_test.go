package ulvs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// message is what a package of the binary can say to people: an error's text, or a line of
// its log.
type message struct {
	folder string
	level  string   // "error", or that of the log's line
	text   string   // its format; %s stands for what is not known before it runs
	keys   []string // of the log's line
	names  []string // by which a test can ask for it: its variable, and the errors that it wraps
	pos    token.Position
}

func (m message) String() string {
	return m.level + " " + strings.Join(append([]string{strconv.Quote(m.text)}, m.keys...), " ")
}

// says is where a function takes a message's text, and as what it is said.
type says struct {
	level string
	text  int // the number of its parameter
}

// speakers say what they are given, whatever package calls them.
var speakers = map[string]says{
	"errors.New": {"error", 0}, "fmt.Errorf": {"error", 0},
	"Debug": {"debug", 0}, "Info": {"info", 0}, "Warn": {"warn", 0}, "Error": {"ERROR", 0},
}

// opaque are texts that are not this binary's own words, and why.
var opaque = map[string]string{
	"internal/control/protocol.go r.Error": "an error of the daemon's, as it came over its socket",
	"internal/control/progress.go r.Error": "the same",
}

// collector reads the messages of one package.
type collector struct {
	folder   string
	files    *token.FileSet
	consts   map[string]string
	failures map[string]bool // types that are errors, and ipvsadm's exit
	speakers map[string]says // functions of the package that hand a parameter on to one
	grown    bool            // another one was found
	list     []message
	unseen   []token.Position // what is said there cannot be seen
}

// messagesOf are the messages of a package's sources, in their order.
func messagesOf(t *testing.T, folder string, sources []file) []message {
	t.Helper()
	c := &collector{folder: folder, files: token.NewFileSet(), consts: map[string]string{},
		failures: map[string]bool{"exit": true}, speakers: map[string]says{}}
	var trees []*ast.File
	for _, f := range sources {
		tree, err := parser.ParseFile(c.files, f.path, f.text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, tree)
		c.declared(tree)
	}
	for c.grown = true; c.grown; {
		c.grown, c.list, c.unseen = false, nil, nil
		for _, tree := range trees {
			c.file(tree)
		}
	}
	for _, at := range c.unseen {
		t.Errorf("%s: what is said here cannot be seen: give a literal", at)
	}
	return c.list
}

// declared notes the constants and the types of errors of a file.
func (c *collector) declared(tree *ast.File) {
	for _, d := range tree.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv != nil && d.Name.Name == "Error" && d.Type.Params.NumFields() == 0 {
				c.failures[receiver(d.Recv.List[0].Type)] = true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				v, ok := s.(*ast.ValueSpec)
				for i := 0; ok && d.Tok == token.CONST && i < len(v.Values); i++ {
					if texts := c.texts(v.Values[i], nil); len(texts) == 1 && !strings.Contains(texts[0], unknown) {
						c.consts[v.Names[i].Name] = texts[0]
					}
				}
			}
		}
	}
}

func (c *collector) file(tree *ast.File) {
	for _, d := range tree.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Body == nil {
				continue
			}
			c.function(d.Name.Name, d.Type, d.Body)
			if d.Name.Name == "Error" && d.Recv != nil {
				c.literals(d.Body, "error")
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				v, ok := s.(*ast.ValueSpec)
				for i := 0; ok && i < len(v.Values); i++ {
					from := len(c.list)
					c.body(v.Values[i], nil, nil)
					if id, is := v.Type.(*ast.Ident); is && c.failures[id.Name] {
						c.add("error", c.texts(v.Values[i], nil), nil, v.Values[i])
					}
					for j := from; j < len(c.list); j++ {
						c.list[j].names = append(c.list[j].names, v.Names[i].Name)
					}
				}
			}
		}
	}
}

// function reads a function, and notes if it says what it is given.
func (c *collector) function(name string, kind *ast.FuncType, body *ast.BlockStmt) {
	params, n := map[string]int{}, 0
	for _, field := range kind.Params.List {
		for _, p := range field.Names {
			if show(field.Type) == "string" {
				params[p.Name] = n
			}
			n++
		}
	}
	c.body(body, params, func(s says) {
		if _, known := c.speakers[name]; !known && speakers[name].level == "" {
			c.speakers[name], c.grown = s, true
		}
	})
}

// body reads what is said in a piece of a source; params are the parameters of its
// function, which is a speaker itself if one of them is said.
func (c *collector) body(within ast.Node, params map[string]int, speaker func(says)) {
	ast.Inspect(within, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, v := range n.Rhs {
				if fn, ok := v.(*ast.FuncLit); ok && i < len(n.Lhs) {
					if id, ok := n.Lhs[i].(*ast.Ident); ok {
						c.nested(id.Name, fn)
					}
				}
			}
		case *ast.CompositeLit:
			if id, ok := n.Type.(*ast.Ident); ok && c.failures[id.Name] {
				for _, e := range n.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						e = kv.Value
					}
					if i, is := spoken(e, params); is && speaker != nil {
						speaker(says{"error", i})
						continue
					}
					c.add("error", c.texts(e, within), nil, n)
				}
			}
		case *ast.CallExpr:
			c.call(n, within, params, speaker)
		}
		return true
	})
}

// nested notes a function in a function that says what it is given.
func (c *collector) nested(name string, fn *ast.FuncLit) {
	list := c.list
	c.function(name, fn.Type, fn.Body)
	c.list = list // its body is read with the function's around it
}

func (c *collector) call(n *ast.CallExpr, within ast.Node, params map[string]int, speaker func(says)) {
	name, s := c.speaker(n)
	if id, ok := n.Fun.(*ast.Ident); ok && c.failures[id.Name] && len(n.Args) == 1 {
		c.add("error", c.texts(n.Args[0], within), nil, n)
		return
	}
	if strings.HasPrefix(name, "fmt.Fprint") && len(n.Args) > 1 && toPeople[show(n.Args[0])] {
		s = says{"stderr", 1}
	}
	if s.level == "" || len(n.Args) <= s.text {
		return
	}
	arg := n.Args[s.text]
	if i, is := spoken(arg, params); is && speaker != nil {
		speaker(says{s.level, i})
		return
	}
	var keys, names []string
	for i, a := range n.Args[s.text+1:] {
		switch a := a.(type) {
		case *ast.BasicLit:
			if key, err := strconv.Unquote(a.Value); err == nil && i%2 == 0 && s.level != "error" && s.level != "stderr" {
				keys = append(keys, key)
			}
		case *ast.Ident:
			names = append(names, a.Name)
		case *ast.SelectorExpr:
			names = append(names, a.Sel.Name)
		}
	}
	names = slices.DeleteFunc(names, func(s string) bool {
		return !strings.HasPrefix(s, "Err") && !(strings.HasPrefix(s, "err") && len(s) > 3)
	})
	texts := c.texts(arg, within)
	if _, ok := opaque[c.files.Position(n.Pos()).Filename+" "+show(arg)]; !ok && len(texts) == 0 && s.level != "stderr" {
		c.unseen = append(c.unseen, c.files.Position(n.Pos()))
	}
	c.add(s.level, texts, keys, n, names...)
}

// spoken is the parameter that a text is, if the caller gives it.
func spoken(e ast.Expr, params map[string]int) (i int, is bool) {
	switch e := e.(type) {
	case *ast.Ident:
		i, is = params[e.Name]
	case *ast.BinaryExpr:
		if lit, ok := e.Y.(*ast.BasicLit); ok && lit.Value == `"\n"` {
			i, is = spoken(e.X, params)
		}
	case *ast.CallExpr:
		if show(e.Fun) == "fmt.Sprintf" {
			i, is = spoken(e.Args[0], params)
		}
	}
	return i, is
}

// toPeople are where a person reads what is written to.
var toPeople = map[string]bool{"os.Stderr": true, "r.warn": true}

// speaker is the function that a call is of, and what it says, if anything.
func (c *collector) speaker(n *ast.CallExpr) (name string, s says) {
	name = show(n.Fun)
	if s, ok := speakers[name]; ok && strings.Contains(name, ".") {
		return name, s
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if s, ok := c.speakers[last]; ok {
		return name, s
	}
	if s, ok := speakers[last]; ok && name != last && name != "http.Error" {
		return name, s
	}
	return name, says{}
}

// literals adds the texts in the Error method of a type.
func (c *collector) literals(body ast.Node, level string) {
	ast.Inspect(body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && strings.HasPrefix(show(call.Fun), "fmt.") {
			c.add(level, c.texts(call, body), nil, n)
			return false
		}
		if lit, ok := n.(ast.Expr); ok {
			if _, is := lit.(*ast.BinaryExpr); is {
				c.add(level, c.texts(lit, body), nil, n)
				return false
			}
			if b, is := lit.(*ast.BasicLit); is && b.Kind == token.STRING {
				c.add(level, c.texts(lit, body), nil, n)
			}
		}
		return true
	})
}

// unknown stands for a part of a text that is known when it runs.
const unknown = "%s"

// texts are what an expression may be, with unknown in it, as far as can be seen within
// its function; none if that is nothing.
func (c *collector) texts(e ast.Expr, within ast.Node) (list []string) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return []string{s}
		}
	case *ast.ParenExpr:
		return c.texts(e.X, within)
	case *ast.BinaryExpr:
		for _, a := range orUnknown(c.texts(e.X, within)) {
			for _, b := range orUnknown(c.texts(e.Y, within)) {
				list = append(list, a+b)
			}
		}
	case *ast.CallExpr:
		if strings.HasPrefix(show(e.Fun), "fmt.Sprint") && len(e.Args) > 0 {
			return c.texts(e.Args[0], within)
		}
	case *ast.Ident:
		if s, ok := c.consts[e.Name]; ok {
			return []string{s}
		}
		return c.assigned(e.Name, within)
	}
	return list
}

func orUnknown(list []string) []string {
	if len(list) == 0 {
		return []string{unknown}
	}
	return list
}

// assigned are the texts that a variable gets within a function.
func (c *collector) assigned(name string, within ast.Node) (list []string) {
	if within == nil {
		return nil
	}
	ast.Inspect(within, func(n ast.Node) bool {
		a, ok := n.(*ast.AssignStmt)
		for i := 0; ok && i < len(a.Rhs) && len(a.Lhs) == len(a.Rhs); i++ {
			if id, is := a.Lhs[i].(*ast.Ident); is && id.Name == name {
				if _, self := a.Rhs[i].(*ast.BinaryExpr); self && strings.Contains(show(a.Rhs[i]), name) {
					continue
				}
				list = append(list, c.texts(a.Rhs[i], nil)...)
			}
		}
		return true
	})
	return list
}

// add notes texts that have a word of their own; the others consist of what is listed
// elsewhere.
func (c *collector) add(level string, texts, keys []string, at ast.Node, names ...string) {
	for _, text := range texts {
		if text = strings.TrimSuffix(text, "\n"); len(wordsOf(text)) > 0 {
			c.list = append(c.list, message{c.folder, level, text, keys, names, c.files.Position(at.Pos())})
		}
	}
}

// wordsOf are the words of a text that are known before it runs.
func wordsOf(text string) (list []string) {
	for _, part := range partsOf(text) {
		list = append(list, strings.FieldsFunc(part, func(r rune) bool { return !unicode.IsLetter(r) })...)
	}
	return list
}
