package ulvs_test

import (
	"context"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// embedder makes a module outside of this repository of testdata/embedder, builds its
// programs, and returns the folder.
func embedder(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/embedder")); err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	// Ours, with the versions that there are: nothing is fetched.
	text := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(ours), "module example.com/embedder")
	text += "\nrequire " + module + " v0.0.0\n\nreplace " + module + " => " + root + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o644); err != nil {
		t.Fatal(err)
	}
	outside(t, dir, "go", "build", "-mod=mod", "-o", "bin/", "./...")
	return dir
}

func outside(t *testing.T, dir string, words ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), words[0], words[1:]...)
	c.Dir, c.Env = dir, append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// TestEmbedder builds programs of an embedder's outside of this repository, and runs them.
func TestEmbedder(t *testing.T) {
	dir := embedder(t)
	for name, want := range map[string]string{
		"memory":    "1 service: -t 192.0.2.1:80 -s rr\n",
		"scheduler": "-t 192.0.2.1:80 -s oldest\n",
	} {
		if got := outside(t, dir, "bin/"+name); got != want {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
	deps := outside(t, dir, "go", "list", "-mod=mod", "-deps", "./memory")
	for _, heavy := range []string{"cilium/ebpf", "google/nftables", "vishvananda/netlink", "spf13/cobra"} {
		if strings.Contains(deps, heavy) {
			t.Errorf("who embeds the plane in memory links %s", heavy)
		}
	}
}

// TestEmbedderNetwork runs those that need a network, in a namespace whose interface is
// eth0.
func TestEmbedderNetwork(t *testing.T) {
	if !lab.Privileged() {
		t.Skip("making network namespaces needs root: run as root")
	}
	dir := embedder(t)
	// Before the host is made, which sees what is mounted then.
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Skipf("mounting a BPF file system needs root: %v", err)
	}
	defer func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) }()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := l.Add(lab.HostConfig{Name: "director", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24")}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(words ...string) string {
		out, err := h.Command(context.Background(), filepath.Join(dir, "bin", words[0]), words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
		}
		return string(out)
	}
	if got := run("afpacket"); !strings.Contains(got, "ran on afpacket\n") {
		t.Errorf("afpacket says %q", got)
	}
	pins := filepath.Join(bpffs, "ulvs")
	first := run("xdp", pins)
	if !strings.Contains(first, "ran on xdp, adopted false, 1 service\n") {
		t.Skipf("XDP with pins is not to be had here: %s", first)
	}
	if got := run("xdp", pins); !strings.Contains(got, "ran on xdp, adopted true, 1 service\n") {
		t.Errorf("the second program says %q", got)
	}
}

// TestEmbedderImports: an embedder needs three imports of ours, and a fourth for a
// scheduler of his own.
func TestEmbedderImports(t *testing.T) {
	files, err := filepath.Glob("testdata/embedder/*/main.go")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, i := range f.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); strings.HasPrefix(path, module) && path != module+"/sched" {
				n++
			}
		}
		if n > 3 {
			t.Errorf("%s has %d imports of ours, the limit is 3", file, n)
		}
	}
}
