package ipvsadm

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// glibcCases reads a file of what glibc answered. Each line is a series of JSON
// values, of which the last may be a bare word.
func glibcCases(t *testing.T, name string) [][]string {
	t.Helper()
	text, err := os.ReadFile("testdata/glibc/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(l, "#") {
			continue
		}
		var words []string
		for l != "" {
			dec := json.NewDecoder(strings.NewReader(l))
			var raw json.RawMessage
			if l[0] != '"' && l[0] != '[' {
				w, rest, _ := strings.Cut(l, " ")
				words, l = append(words, w), rest
				continue
			}
			if err := dec.Decode(&raw); err != nil {
				t.Fatalf("%s: %q: %v", name, l, err)
			}
			l = strings.TrimPrefix(l[dec.InputOffset():], " ")
			w := string(raw)
			if w[0] == '"' {
				w = jsonString(t, w)
			}
			words = append(words, w)
		}
		out = append(out, words)
	}
	if len(out) < 20 {
		t.Fatalf("%s: only %d cases", name, len(out))
	}
	return out
}

func TestGlibcNumbers(t *testing.T) {
	for _, c := range glibcCases(t, "strtol.txt") {
		n, rest, _ := parseLong(c[0])
		if got := formatInt(n); got != c[1] || rest != c[2] {
			t.Errorf("%q: %s and %q, glibc: %s and %q", c[0], got, rest, c[1], c[2])
		}
	}
	for s, ok := range map[string]bool{"": false, " ": false, "5": true, " +7": true, "11": false, "4": false, "6 ": false} {
		if _, got := parseNumber(s, 5, 10); got != ok {
			t.Errorf("parseNumber(%q): %v", s, got)
		}
	}
	if _, ok := parseNumber("99999999999999999999", 0, 1<<63-1); ok {
		t.Error("a number that does not fit was taken")
	}
}

func formatInt(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestGlibcAddresses(t *testing.T) {
	for _, c := range glibcCases(t, "inet_aton.txt") {
		got := "-"
		if a, ok := parseAton(c[0]); ok {
			got = a.String()
		}
		if got != c[1] {
			t.Errorf("inet_aton(%q): %s, glibc: %s", c[0], got, c[1])
		}
	}
	for _, c := range glibcCases(t, "inet_pton6.txt") {
		got := "-"
		if a, ok := parsePton6(c[0]); ok {
			got = formatAddr(a)
		}
		if got != c[1] {
			t.Errorf("inet_pton(%q): %s, glibc: %s", c[0], got, c[1])
		}
	}
}

func TestGlibcSort(t *testing.T) {
	for _, c := range glibcCases(t, "qsort.txt") {
		var in, want []uint32
		if json.Unmarshal([]byte(c[0]), &in) != nil || json.Unmarshal([]byte(c[1]), &want) != nil {
			t.Fatalf("%q", c)
		}
		got := slices.Clone(in)
		mergeSort(got, func(a, b *uint32) int32 { return wrapped(*a, *b) })
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, glibc: %v", in, got, want)
		}
	}
}

func TestPrefix(t *testing.T) {
	for bits := range 129 {
		if m := prefixMask(bits); prefixLength(m) != bits {
			t.Errorf("%d: %v is %d", bits, m, prefixLength(m))
		}
	}
	if got := prefixMask(20).String(); got != "ffff:f000::" {
		t.Error(got)
	}
}
