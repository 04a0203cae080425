package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// What is committed is what the tool makes of the results that are committed: no
// figure is written by hand.
func TestPage(t *testing.T) {
	files, err := render(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is not what `make bench-report` writes", name)
		}
	}
}

const some = `command: go test
kernel: 6.18
cpu: Some CPU
BenchmarkWire/established/1/bare-2         1  100 ns/packet  1.000 of-bare
BenchmarkWire/established/1/bare-2         1  140 ns/packet  1.000 of-bare
BenchmarkWire/established/1/bare-2         1  120 ns/packet  1.000 of-bare
BenchmarkWire/established/1/xdp-2          1  125 ns/packet  0.960 of-bare
BenchmarkWire/established/65536/bare-2     1  1200.4 ns/packet  1.000 of-bare
BenchmarkWire/net/1/bare-2                 1  100 ns/packet
BenchmarkWire/net/1/xdp-2                  1  125 ns/packet  25 net
PASS
`

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1.256: "1.26", -0.5: "-0.50", -388.6: "-389", -123456: "-123,456"} {
		if got := number(v); got != want {
			t.Errorf("%v is %s, not %s", v, got, want)
		}
	}
}

// Six results give an interval, and fewer none.
func TestInterval(t *testing.T) {
	r := &row{values: map[string][]float64{"ns": {100, 101, 99, 100, 104, 100}, "few": {1, 2, 3}}}
	if got := r.text("ns"); got != "100 ± 4 %" {
		t.Errorf("six results: %q", got)
	}
	if got := r.text("few"); got != "2" {
		t.Errorf("three results: %q", got)
	}
}

func TestTables(t *testing.T) {
	p := &pageOf{files: fstest.MapFS{"bench/results/wire.txt": {Data: []byte(some)}}, loaded: map[string]*results{}, out: map[string][]byte{}}
	for _, c := range []struct {
		name string
		got  func() (string, error)
		want string
	}{
		{"table", func() (string, error) {
			return p.table("wire", "Wire/established", "ns/packet=ns a packet", "of-bare")
		}, `| | ns a packet | of-bare |
|---|---:|---:|
| 1, bare | 120 | 1 |
| 1, xdp | 125 | 0.96 |
| 65,536, bare | 1,200 | 1 |`},
		{"pivot", func() (string, error) { return p.pivot("wire", "Wire/established", "ns/packet") }, `| | bare | xdp |
|---|---:|---:|
| 1 | 120 | 125 |
| 65,536 | 1,200 |  |`},
		{"pivot of what some have", func() (string, error) { return p.pivot("wire", "Wire/net", "net") }, `| | xdp |
|---|---:|
| 1 | 25.0 |`},
		{"value", func() (string, error) { return p.value("wire", "Wire/established/1/xdp", "of-bare") }, "0.96"},
		{"bars", func() (string, error) { return p.bars("wire", "Wire/established", "ns/packet", "Wire & more") }, "![Wire & more](bench/plots/wire-wire-established.svg)"},
	} {
		got, err := c.got()
		if err != nil || got != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.name, err, got, c.want)
		}
	}
	plot := string(p.out["bench/plots/wire-wire-established.svg"])
	for _, part := range []string{"<svg ", "Wire &amp; more (ns/packet)", ">120 bare<", ">65,536<", "</svg>"} {
		if !strings.Contains(plot, part) {
			t.Errorf("the plot has no %q:\n%s", part, plot)
		}
	}
	for name, f := range map[string]func() (string, error){
		"a file that is not there":   func() (string, error) { return p.table("none", "Wire") },
		"a path that is not there":   func() (string, error) { return p.table("wire", "Wire/new", "ns/packet") },
		"a value that is not there":  func() (string, error) { return p.value("wire", "Wire/established/2/xdp", "of-bare") },
		"a unit that is not there":   func() (string, error) { return p.value("wire", "Wire/established/1/xdp", "of") },
		"a unit that nobody has":     func() (string, error) { return p.pivot("wire", "Wire/net", "of") },
		"a plot of what is not here": func() (string, error) { return p.bars("wire", "W", "ns/packet", "t") },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
