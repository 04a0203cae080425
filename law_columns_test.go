package ulvs_test

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// mostColumns is how wide a line of code may be, with tabs of four.
const mostColumns = 120

var literal = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`")

// tooWide reports a line of code that is too wide. What it says in quotes does not count,
// as a text is not broken; nor do comments, whose width gofmt leaves alone, nor the rows of
// a table, which call nothing.
func tooWide(line string) bool {
	code := literal.ReplaceAllString(line, `""`)
	code, _, _ = strings.Cut(code, "//")
	code = strings.TrimRight(code, " \t")
	row := !strings.Contains(code, "(") && (strings.HasSuffix(code, "},") || strings.HasSuffix(code, "}"))
	return !row && len([]rune(strings.ReplaceAll(code, "\t", "    "))) > mostColumns
}

func TestColumns(t *testing.T) {
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		text, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(text, []byte("\n")) {
			if tooWide(string(line)) {
				t.Errorf("%s:%d: more than %d columns: break it", f.path, i+1, mostColumns)
			}
		}
	}
	if wide := strings.Repeat("x + ", 31); !tooWide(wide) || tooWide(`f("`+wide+`")`) || tooWide("// "+wide) {
		t.Error("a planted line is not found, or a text is")
	}
}
