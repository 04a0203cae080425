package xdp

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/journal"
)

// dies in the environment has TestJournalKilled be the process that is killed: at a step,
// with a folder of pins.
const dies = "ULVS_TEST_DIES"

const firstJournal, laterJournal = 8 << 10, 32 << 10

// keeper is a plane with pins, and its journal's memory.
func keeper(t *testing.T, dir string) (*Plane, []byte, bool) {
	t.Helper()
	p, block, kept := unplaced(t, dir)
	if err := p.pins.place(); err != nil {
		t.Fatal(err)
	}
	return p, block, kept
}

// unplaced is a keeper that has pinned nothing yet.
func unplaced(t *testing.T, dir string) (*Plane, []byte, bool) {
	t.Helper()
	p, err := New(Options{Interfaces: []string{"lo"}, Slow: dataplanetest.New(), Servers: 63, Pins: dir})
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	parts := []accel.Part{{Name: accel.PartConns, Size: conn.MemorySize(1000)}, {Name: "journal", Size: firstJournal, Journal: true}}
	kept, err := p.Memory(parts)
	if err != nil {
		t.Fatal(err)
	}
	return p, parts[1].Block, kept
}

// A process that is killed while it puts a larger journal in the place of its own leaves
// one that is complete: the old one until the step that puts the new one there.
func TestJournalKilled(t *testing.T) {
	if step, dir, ok := strings.Cut(os.Getenv(dies), ":"); ok {
		killedAt(t, step, dir)
		return
	}
	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Skipf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	before, after := []string{"one", "two"}, []string{"one and two", "three"}
	for _, c := range []struct {
		step string
		want []string
	}{{"made", before}, {"written", before}, {"pinned empty", before}, {"pinned", before}, {"replaced", after}, {"never", after}} {
		t.Run(c.step, func(t *testing.T) {
			dir := filepath.Join(fs, strings.ReplaceAll(c.step, " ", "_"))
			child := exec.Command("/proc/self/exe", "-test.run=^TestJournalKilled$")
			child.Env = append(os.Environ(), dies+"="+c.step+":"+dir)
			out, err := child.CombinedOutput()
			if child.ProcessState == nil {
				t.Fatal(err)
			}
			status, _ := child.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled(); killed != (c.step != "never") || !killed && err != nil {
				t.Fatalf("it ended with %v\n%s", err, out)
			}
			for range 2 { // and again, as the first has removed what lay about
				p, block, kept := keeper(t, dir)
				if !kept {
					t.Fatalf("nothing was adopted: %s", p.pins.why)
				}
				_, records, err := journal.Open(block)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, r := range records {
					got = append(got, string(r))
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("the journal has %q, not %q", got, c.want)
				}
				if slices.Equal(c.want, after) != (len(block) == laterJournal) {
					t.Errorf("the journal has %d bytes", len(block))
				}
				if slices.Contains(p.pins.names(), "journal"+nextSuffix) {
					t.Error("what was to be the journal is still pinned")
				}
				p.Release()
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A journal that grows before anything is pinned is what is pinned then, and what sizes
// that are asked for do not speak against.
func TestJournalGrowsFirst(t *testing.T) {
	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Skipf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	dir := filepath.Join(fs, "ulvs")
	p, _, _ := unplaced(t, dir)
	err := p.Replace("journal", laterJournal, func(block []byte) error {
		j, err := journal.New(block)
		if err != nil {
			return err
		}
		return j.Append([]byte("one"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if names := p.pins.names(); len(names) > 0 {
		t.Errorf("pinned before they are to be: %q", names)
	}
	if err := p.pins.place(); err != nil {
		t.Fatal(err)
	}
	if err := CheckKept(dir, map[string]int{"journal": firstJournal}); err != nil {
		t.Error(err)
	}
	r, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, records, err := journal.Open(r.Journal); err != nil || len(records) != 1 {
		t.Errorf("seen from outside, the journal has %q, %v", records, err)
	}
	p.Release()
	p.pins.close()
	next, block, kept := keeper(t, dir)
	defer func() { next.Release(); _ = next.Close() }()
	_, records, err := journal.Open(block)
	if !kept || len(block) != laterJournal || err != nil || len(records) != 1 {
		t.Errorf("adopted %v: a journal of %d bytes with %q, %v", kept, len(block), records, err)
	}
}

// killedAt replaces a journal, and kills itself at a step.
func killedAt(t *testing.T, step, dir string) {
	p, block, _ := keeper(t, dir)
	at := func(now string) {
		if now == step {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	j, err := journal.New(block)
	check(err)
	check(j.Append([]byte("one")))
	check(j.Append([]byte("two")))
	check(p.Replace("journal", laterJournal, func(block []byte) error {
		at("made")
		if step == "pinned empty" || step == "pinned" { // within pins.replace
			a, err := newArray("ulvs_journal", laterJournal)
			check(err)
			check(p.pins.keep("journal"+nextSuffix, a))
			at("pinned empty")
			block = a.memory[:laterJournal]
		}
		j, err := journal.New(block)
		check(err)
		check(j.Rewrite([][]byte{[]byte("one and two"), []byte("three")}))
		at("written")
		at("pinned")
		return nil
	}))
	at("replaced")
}

// A journal that cannot be replaced stays as it is; where nothing is kept, there is none.
func TestJournalStays(t *testing.T) {
	p, err := New(Options{Interfaces: []string{"lo"}, Slow: dataplanetest.New(), Servers: 63})
	if errors.Is(err, ErrNotPermitted) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	parts := []accel.Part{{Name: accel.PartConns, Size: conn.MemorySize(1000)}, {Name: "journal", Size: firstJournal, Journal: true}}
	if _, err := p.Memory(parts); err != nil || parts[1].Block != nil {
		t.Errorf("without pins the journal has %d bytes, %v", len(parts[1].Block), err)
	}
	if err := p.Replace("journal", laterJournal, func([]byte) error { return nil }); err == nil ||
		err.Error() != "there is no journal to be replaced" {
		t.Errorf("and was replaced: %v", err)
	}
	p.Release()
	_ = p.Close()

	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Skipf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	p, block, _ := keeper(t, filepath.Join(fs, "ulvs"))
	defer func() { p.Release(); _ = p.Close() }()
	mapped, open := arrays(t)
	j, err := journal.New(block)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := p.Replace("journal", laterJournal, func([]byte) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := p.Replace("journal", 1<<33, func([]byte) error { return nil }); err == nil {
		t.Error("a journal of 8 GiB was made")
	}
	if err := j.Append([]byte("more")); err != nil {
		t.Error(err)
	}
	if m, o := arrays(t); m != mapped || o != open {
		t.Errorf("%d arrays are mapped and %d open, and were %d and %d before", m, o, mapped, open)
	}
}
