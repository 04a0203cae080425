package ulvs_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ulvs/ulvs"

// law says what each folder may import of ours; "" is the root. A folder that
// is not here may not exist. Tests of a folder may import more: what they need
// to look from outside.
var law = map[string][]string{
	"packet":                  {},
	"sched":                   {},
	"dataplane":               {},
	"internal/sysctl":         {},
	"internal/estimator":      {},
	"internal/svctable":       {},
	"internal/timerwheel":     {},
	"internal/shtab":          {},
	"internal/preselect":      {"internal/shtab"},
	"internal/journal":        {},
	"internal/lab":            {},
	"internal/guest":          {},
	"internal/guest/init":     {"internal/guest"},
	"internal/xsk":            {},
	"fwmark":                  {"packet"},
	"internal/fragment":       {"packet"},
	"internal/ratelimit":      {"dataplane"},
	"internal/hostlimit":      {"dataplane"},
	"conn":                    {"packet", "internal/shtab", "internal/expiring"},
	"persist":                 {"internal/shtab", "internal/expiring"},
	"internal/expiring":       {"internal/shtab", "internal/timerwheel"},
	"internal/hostlink":       {"dataplane"},
	"dataplane/afpacket":      {"dataplane", "dataplane/neigh", "internal/hostlimit", "internal/hostlink"},
	"dataplane/neigh":         {"dataplane"},
	"internal/accel":          {"dataplane"},
	"dataplane/xdp":           {"dataplane", "dataplane/xdp/program", "internal/accel", "packet", "conn", "persist", "internal/hostlink", "internal/preselect", "internal/shtab", "internal/xsk"},
	"dataplane/xdp/program":   {"dataplane", "internal/accel", "conn", "persist", "internal/preselect", "internal/shtab"},
	"dataplane/tcx":           {},
	"dataplane/auto":          {"dataplane", "dataplane/afpacket", "dataplane/tcx", "dataplane/xdp", "internal/accel", "internal/hostlink"}, // no stage: it wires as cmd does
	"dataplane/dataplanetest": {"dataplane", "internal/accel"},
	"":                        {"dataplane", "sched"},
	"director":                {"", "dataplane", "forward", "fwmark", "internal/accel", "internal/journal", "sched", "persist"},
	"forward":                 {"", "conn", "dataplane", "internal/estimator", "internal/fragment", "fwmark", "internal/accel", "internal/preselect", "internal/ratelimit", "internal/shtab", "packet", "persist", "sched", "internal/svctable", "internal/sysctl"},
	"internal/hostmark":       {"fwmark"},
	"internal/control":        {""},
	"internal/ipvsadm":        {"", "sched"},
	"internal/ipvsnl":         {"", "sched"},
	"internal/bridge":         {"internal/ipvsnl"},
	"internal/procfs":         {""}, // what a listing is to ipvsadm, these files are to programs
	"cmd/ulvs":                {"*"},
	"conformance":             {"internal/lab"},
	"conformance/uml":         {"conformance", "internal/lab"},
	"bench":                   {"*"},
	"bench/wire":              {"internal/lab"},
	"bench/wire/rounds":       {"bench/wire"},
	"bench/frames":            {"dataplane"},
	"bench/kernel":            {}, // all of it are tests
	"bench/latency":           {}, // all of it are tests
	"bench/planes":            {}, // all of it are tests
	"bench/report":            {},
}

// only says in which folders (and below) a dangerous import may appear outside
// of tests.
var only = map[string][]string{
	"unsafe":                     {}, // by file name, see TestUnsafe
	"C":                          {},
	"github.com/cilium/ebpf":     {"dataplane/xdp", "dataplane/tcx", "bench/wire"}, // and tests
	"github.com/google/gopacket": {"bench", "conformance"},
}

type file struct {
	path, folder string
	text         any // its source, if it is not to be read from path
	test         bool
	imports      []string
}

func sources(t *testing.T) (list []file) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder := filepath.ToSlash(filepath.Dir(path))
		if folder == "." {
			folder = ""
		}
		x := file{path: path, folder: folder, test: strings.HasSuffix(path, "_test.go")}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			x.imports = append(x.imports, name)
		}
		list = append(list, x)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestImportLaw(t *testing.T) {
	for _, f := range sources(t) {
		allowed, known := law[f.folder]
		if !known {
			t.Errorf("%s: the folder %q is not in the law: say what it may import, and why it earns its place", f.path, f.folder)
			continue
		}
		if f.test {
			continue
		}
		for _, name := range f.imports {
			ours, is := strings.CutPrefix(name, module)
			ours = strings.TrimPrefix(ours, "/")
			if is && !slices.Contains(allowed, "*") && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s; %q may import %q", f.path, name, f.folder, allowed)
			}
			for what, where := range only {
				if what == "unsafe" || name != what && !strings.HasPrefix(name, what+"/") {
					continue
				}
				if !slices.ContainsFunc(where, func(w string) bool { return f.folder == w || strings.HasPrefix(f.folder, w+"/") }) {
					t.Errorf("%s imports %s, which belongs to %q", f.path, name, where)
				}
			}
		}
	}
}

// unsafe is only in files that say so.
func TestUnsafe(t *testing.T) {
	for _, f := range sources(t) {
		base := filepath.Base(f.path)
		if slices.Contains(f.imports, "unsafe") && base != "unsafe.go" && base != "layout.go" {
			t.Errorf("%s imports unsafe; that belongs into unsafe.go or layout.go", f.path)
		}
	}
}

// No file is longer than a person reads at one go, and the operator's words than fits
// into a head. A limit may fall and never rise: split, do not raise.
func TestSizes(t *testing.T) {
	words := 0
	for _, f := range sources(t) {
		text, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		n := bytes.Count(text, []byte("\n"))
		if n > 400 {
			t.Errorf("%s has %d lines, the limit is 400: one job has become two", f.path, n)
		}
		if f.folder == "" && !f.test {
			words += n
		}
	}
	if words > 600 {
		t.Errorf("the root package has %d lines, the limit is 600: it is the operator's words alone", words)
	}
}

// Names that say nothing.
func TestNames(t *testing.T) {
	for folder := range law {
		for _, bad := range []string{"util", "utils", "common", "helpers", "types", "misc"} {
			if slices.Contains(strings.Split(folder, "/"), bad) {
				t.Errorf("a folder called %s", folder)
			}
		}
	}
}
