package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"in/one": "1", "in/deep/five": "12345", "in/deep/four": "1234"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var got bytes.Buffer
	a := archive{w: &got}
	a.folder("/proc")
	a.add("/a/b/c", 0o755, 3, strings.NewReader("abc"))
	a.add("/a/none", 0o644, 0, nil)
	a.copy("/a/host", filepath.Join(dir, "in"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"40755 0 2 proc", "40755 0 2 a", "40755 0 2 a/b", "100755 3 1 a/b/c abc", "100644 0 1 a/none",
		"40755 0 2 a/host", "40755 0 2 a/host/deep", "100644 5 1 a/host/deep/five 12345",
		"100644 4 1 a/host/deep/four 1234", "100644 1 1 a/host/one 1", "0 0 1 TRAILER!!!",
	}
	if list := entries(t, got.Bytes()); !slices.Equal(list, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(list, "\n"), strings.Join(want, "\n"))
	}
}

// entries reads an archive by the kernel's description of it.
func entries(t *testing.T, data []byte) (list []string) {
	t.Helper()
	inodes := make(map[string]bool)
	for at := 0; at < len(data); {
		if string(data[at:at+6]) != "070701" {
			t.Fatalf("at %d: % x", at, data[at:])
		}
		field := func(n int) int { return number(t, data[at+6+8*n:][:8]) }
		mode, links, size, length := field(1), field(4), field(6), field(11)
		inode := string(data[at+6:][:8])
		if inodes[inode] {
			t.Errorf("inode %s twice", inode)
		}
		inodes[inode] = true
		name := string(data[at+110:][:length-1])
		if data[at+110+length-1] != 0 {
			t.Errorf("%s does not end in NUL", name)
		}
		body := (at + 110 + length + 3) &^ 3
		content := string(data[body:][:size])
		list = append(list, strings.TrimSpace(fmt.Sprintf("%o %d %d %s %s", mode, size, links, name, content)))
		at = (body + size + 3) &^ 3
		if name == "TRAILER!!!" && at != len(data) {
			t.Errorf("%d bytes after the end", len(data)-at)
		}
	}
	return list
}

func number(t *testing.T, digits []byte) int {
	t.Helper()
	n, err := strconv.ParseUint(string(digits), 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func TestArchiveErrors(t *testing.T) {
	for what, a := range map[string]func(*archive){
		"instead of":             func(a *archive) { a.add("/x", 0o644, 5, strings.NewReader("abc")) },
		"4 GiB at most":          func(a *archive) { a.add("/x", 0o644, 1<<32, strings.NewReader("")) },
		"no such file":           func(a *archive) { a.copy("/x", "/nowhere/at/all") },
		exec.ErrNotFound.Error(): func(a *archive) { a.fail(exec.ErrNotFound); a.fail(errors.New("a later one")) },
	} {
		x := archive{w: &bytes.Buffer{}}
		a(&x)
		if err := x.close(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, not %q", err, what)
		}
	}
}

func TestClosure(t *testing.T) {
	needs := map[string]string{"nft_ct": "nf_conntrack nf_tables", "nf_conntrack": "defrag4 builtin", "nf_tables": "nfnetlink", "defrag4": "", "nfnetlink": "", "veth": "", "bad": "missing"}
	open := func(name string) (*module, error) {
		list, ok := needs[name]
		switch {
		case ok:
			return &module{name: name, needs: strings.Fields(list)}, nil
		case name == "builtin":
			return nil, nil
		}
		return nil, errors.New("no module " + name)
	}
	list, err := closure([]string{"veth", "nft-ct", "nf_tables", "veth"}, open)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.name)
	}
	if got := strings.Join(names, " "); got != "veth defrag4 nf_conntrack nfnetlink nf_tables nft_ct" {
		t.Error(got)
	}
	if _, err := closure([]string{"bad"}, open); err == nil || err.Error() != "bad needs it: no module missing" {
		t.Error(err)
	}
}

// Parameters find their module however it is spelled, and none is lost.
func TestParameters(t *testing.T) {
	loaded := []module{{name: "nf_conntrack"}, {name: "ip_vs"}}
	by, err := parametersOf(loaded, map[string]string{"ip-vs": "conn_tab_bits=20"})
	if err != nil || len(by) != 1 || by["ip_vs"] != "conn_tab_bits=20" {
		t.Error(by, err)
	}
	if _, err := parametersOf(loaded, map[string]string{"ip_vs_rr": "x=1"}); err == nil || !strings.Contains(err.Error(), "name it in Modules") {
		t.Error(err)
	}
}

func TestDependency(t *testing.T) {
	depends := `linux-image-cloud-amd64
  Depends: linux-image-6.1.0-50-cloud-amd64
  Suggests: linux-image-6.2.0-1-cloud-amd64
`
	for series, want := range map[string]string{"6.1": "linux-image-6.1.0-50-cloud-amd64", "6": "linux-image-6.1.0-50-cloud-amd64", "6.12": "", "6.2": ""} {
		if got := dependency(depends, series); got != want {
			t.Errorf("%s: %q, want %q", series, got, want)
		}
	}
	shown := "Package: linux-image-6.1.0-50-cloud-amd64\nSource: linux (6.1.1)\nVersion: 6.1.176-1\nDescription: Linux\n Version: no\n"
	if got := field(shown, "Version"); got != "6.1.176-1" {
		t.Errorf("the version is %q", got)
	}
}

func TestMirrors(t *testing.T) {
	for list, want := range map[string]string{
		"":                  "http://deb.debian.org/debian http://deb.debian.org/debian-security",
		" http://other/x\n": "http://deb.debian.org/debian http://deb.debian.org/debian-security",
		"Debian http://near/debian\nDebian-Security http://near/security\nnodistro https://x\n": "http://near/debian http://near/security",
	} {
		if main, security := mirrorsOf(list); main+" "+security != want {
			t.Errorf("%q: %s %s", list, main, security)
		}
	}
}

// The cache knows series apart, and an image by what its package holds.
func TestCache(t *testing.T) {
	dir := t.TempDir()
	if v, err := cached(dir, "6.1"); v != "" || err != nil {
		t.Error(v, err)
	}
	for _, sub := range []string{
		".fetch-6.1.1", "6.1.9-1", "6.1.10-1/boot", "6.1.10-1/lib/modules/6.1.0-10-cloud-amd64",
		"6.12.1-1/boot", "6.12.1-1/usr/lib/modules/6.12.1+deb13-cloud-amd64",
	} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"6.1.10-1/boot/vmlinuz-6.1.0-10-cloud-amd64", "6.12.1-1/boot/vmlinuz-6.12.1+deb13-cloud-amd64"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "6.1.9-1"), hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	for series, want := range map[string]string{
		"6.1":  "linux-image-6.1.0-10-cloud-amd64 6.1.10-1 lib/modules/6.1.0-10-cloud-amd64",
		"6.12": "linux-image-6.12.1+deb13-cloud-amd64 6.12.1-1 usr/lib/modules/6.12.1+deb13-cloud-amd64",
	} {
		version, err := cached(dir, series)
		if err != nil {
			t.Fatal(err)
		}
		image, err := open(filepath.Join(dir, version))
		if err != nil {
			t.Fatal(err)
		}
		modules, err := filepath.Rel(filepath.Join(dir, version), image.Modules)
		if got := image.String() + " " + modules; got != want || err != nil {
			t.Errorf("%s: %s, %v", series, got, err)
		}
	}
	if _, err := open(filepath.Join(dir, "6.1.9-1")); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Error(err)
	}
	if _, err := Kernel(t.Context(), "2.4"); err == nil || !strings.Contains(err.Error(), "6.1 and 6.12") {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	for console, want := range map[string]string{
		"[ 1.0] up\r\n\r\nulvs-guest: exit 3\r\n[ 1.1] reboot: Power down\r\n": "3 <nil>",
		"\nulvs-guest: error: load x: no\r\n":                                  "0 load x: no",
		"ulvs-guest: exit x\n":                                                 `0 strconv.Atoi: parsing "x": invalid syntax`,
		"Kernel panic\n":                                                       "0 it ended without a word from its process 1",
	} {
		code, err := status(console)
		if got := fmt.Sprint(code, " ", err); got != want {
			t.Errorf("%q: %s", console, got)
		}
	}
}

// Who asks for nonsense, or lacks a program, hears of it before anything is done.
func TestRefuses(t *testing.T) {
	good := Options{Kernel: &Image{}, Binary: "x"}
	for want, change := range map[string]func(*testing.T, *Options){
		"no kernel":     func(_ *testing.T, o *Options) { o.Kernel = nil },
		"no program":    func(_ *testing.T, o *Options) { o.Binary = "" },
		"set CPUs to 1": func(_ *testing.T, o *Options) { o.Icount, o.CPUs = true, 2 },
		"apt-get install --no-install-recommends qemu-system-x86": func(t *testing.T, _ *Options) { t.Setenv("PATH", "/nowhere") },
	} {
		t.Run(want, func(t *testing.T) {
			o := good
			change(t, &o)
			if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
				t.Error(err)
			}
		})
	}
}
