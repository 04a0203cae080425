package xdp

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/accel"
)

// bpffs is a BPF file system of the test's own.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skipf("mounting a BPF file system needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// What an earlier process left is told apart: nothing, what it was killed in the middle of,
// and what another version left, of which it is not known how much it is. That one is not
// given up, and a look changes nothing.
func TestReadKept(t *testing.T) {
	fs := bpffs(t)
	dir := filepath.Join(fs, "ulvs", "one")
	look := func() *Kept {
		t.Helper()
		k, err := ReadKept(dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	parts := []accel.Part{{Name: "conns", Size: 4096}}
	adopt := func() error {
		p, err := openPins(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		list, err := p.adopt(parts)
		if len(list) > 0 {
			t.Error("something was adopted")
		}
		return err
	}
	if k := look(); k != nil {
		t.Errorf("in no folder there is %v", k)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("a look makes folders")
	}
	p, err := openPins(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	p.removeFolders()
	p.close()
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("the folders that were made are still there")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pin := func(name string, size uint32, value []byte) {
		t.Helper()
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
		if err == nil {
			defer m.Close()
			if value != nil {
				err = m.Put(uint32(0), value)
			}
		}
		if err == nil {
			err = m.Pin(filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pin("conns", 4096, nil)
	if k := look(); k == nil || !k.Empty() {
		t.Errorf("without a header there is %v", k)
	}
	if err := adopt(); err != nil {
		t.Errorf("what was not completed is not given up: %v", err)
	}
	here, err := namespace()
	if err != nil {
		t.Fatal(err)
	}
	old := make([]byte, 16) // as version 5 had it
	old[0] = 5
	for i := range 8 {
		old[8+i] = byte(here >> (8 * i))
	}
	pin(layoutPin, 16, old)
	k := look()
	if k == nil || k.Empty() || !strings.Contains(k.String(), "how many cannot be told") {
		t.Errorf("of another version there is %v", k)
	}
	var misfit *accel.Misfit
	if err := adopt(); !errors.Is(err, accel.ErrKept) || !errors.As(err, &misfit) || !strings.Contains(misfit.Why.Error(), "its layout is 5, and this version's is ") {
		t.Errorf("of another version: %v", err)
	}
	if err := CheckKept(dir, map[string]int{"conns": 4096}); err == nil || !strings.Contains(err.Error(), "its layout is 5") {
		t.Errorf("of another version: %v", err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("there is %v", names)
	}
}

// Words that do not fit are left out as a whole, and numbers are in words.
func TestKeptWords(t *testing.T) {
	var h header
	h.setWords(strings.Repeat("x", len(h.words)))
	if h.words[0] != 0 {
		t.Error("half of the words is written down")
	}
	for _, c := range []struct {
		services, connections int
		want                  string
	}{
		{1, 0, "/d keeps 1 service and 0 connections of an earlier daemon"},
		{2, 1, "/d keeps 2 services and 1 connection of an earlier daemon"},
		{-1, -1, "/d keeps services and connections of an earlier daemon, how many cannot be told"},
	} {
		if got := (&Kept{Dir: "/d", Services: c.services, Connections: c.connections}).String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestLinkPins(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"eth0.100", "eth0_100", "eth0%_100", "eth0%100", "eth0%.100", "eth0%%_100"} {
		pin := linkPin(name, nativePin)
		if other, had := seen[pin]; had || strings.Contains(pin, ".") {
			t.Errorf("%s and %s are pinned as %s", name, other, pin)
		}
		seen[pin] = name
	}
}
