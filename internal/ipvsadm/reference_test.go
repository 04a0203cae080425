package ipvsadm

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestReference runs the scenarios of testdata/reference and compares with what
// the kernel did there. Those files indent output by two and cut blanks off the
// ends of lines; commands that succeed in silence are not in them.
func TestReference(t *testing.T) {
	for _, name := range []string{"cli-errors", "save-restore"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile("testdata/reference/" + name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			scenario, want, ok := strings.Cut(string(text), "\n# what the kernel did\n")
			if !ok {
				t.Fatal("no answers")
			}
			control := newFake()
			var got strings.Builder
			for _, l := range strings.Split(scenario, "\n")[1:] {
				l = strings.TrimSpace(l)
				if l == "" {
					continue
				}
				show := strings.HasPrefix(l, "show ")
				if show {
					l = "ipvsadm " + strings.TrimPrefix(l, "show ")
				}
				stdout, stderr, exit := runWith(testNames("/nonexistent"), control, "", strings.Fields(l))
				if !show && exit == 0 && stdout == "" {
					continue
				}
				fmt.Fprintf(&got, "$ %s (exit %d)\n", l, exit)
				for _, o := range strings.Split(strings.TrimSuffix(stdout+stderr, "\n"), "\n") {
					got.WriteString("  " + strings.TrimRight(o, " ") + "\n")
				}
			}
			g, w := blocks(got.String()), blocks(want)
			for i := range max(len(g), len(w)) {
				if i >= len(g) || i >= len(w) || g[i] != w[i] {
					t.Fatalf("block %d differs\ngot:\n%s\nthe kernel's:\n%s", i,
						slices.Concat(g, []string{"nothing"})[min(i, len(g))],
						slices.Concat(w, []string{"nothing"})[min(i, len(w))])
				}
			}
		})
	}
}

// blocks splits at commands. The order of services under --nosort is the
// kernel's hash order, another in each namespace: there, services are sorted,
// each with its real servers in their own order.
func blocks(s string) []string {
	var out []string
	for _, b := range strings.Split("\n"+s, "\n$ ")[1:] {
		b = strings.TrimRight(b, " \n")
		if strings.Contains(b, "--nosort") {
			parts := strings.Split(strings.ReplaceAll(b, "\n  UDP", "\n  TCP"), "\n  TCP")
			slices.Sort(parts[1:])
			b = strings.Join(parts, "\n  TCP")
		}
		out = append(out, b)
	}
	return out
}
