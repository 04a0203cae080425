package xdp

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// pins is a folder of a BPF file system with the arrays, by the names of their
// parts, and a link an interface. One array, which is pinned last, says what the
// layout of the others is.
type pins struct {
	dir  string
	why  string // nothing was adopted; "": there was nothing
	lock int    // a descriptor of the folder, which one process has at a time; -1: closed
}

const (
	layoutPin  = "layout"
	linkPrefix = "link-"
	// nextSuffix marks what is to take the place of another pin; a daemon that was killed
	// just then leaves it.
	nextSuffix = "-next"
)

// linkPin returns the name of an interface's link, in the mode in which it is attached,
// which an update keeps.
func linkPin(interfaceName string, native bool) string {
	mode := "generic-"
	if native {
		mode = "native-"
	}
	return linkPrefix + mode + strings.ReplaceAll(interfaceName, ".", "_")
}

// ErrNoBPFFS says that a folder for pins is not in a BPF file system.
var ErrNoBPFFS = errors.New("not in a BPF file system: mount -t bpf bpf /sys/fs/bpf")

// CheckPins reports whether a folder, which need not be there, is in a BPF file
// system. The error wraps ErrNoBPFFS.
func CheckPins(dir string) error {
	at := filepath.Clean(dir)
	var fs unix.Statfs_t
	err := unix.Statfs(at, &fs)
	for errors.Is(err, unix.ENOENT) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		err = unix.Statfs(at, &fs)
	}
	if err != nil {
		return fmt.Errorf("xdp: a folder for pins: %s: %w", at, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("xdp: %s is %w", dir, ErrNoBPFFS)
	}
	return nil
}

func openPins(dir string, fresh bool) (*pins, error) {
	if err := CheckPins(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("xdp: a folder for pins: %w", err)
	}
	lock, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		if err = unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = unix.Close(lock)
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("xdp: %s is another daemon's: end that one first", dir)
	} else if err != nil {
		return nil, fmt.Errorf("xdp: a folder for pins: %s: %w", dir, err)
	}
	p := &pins{dir: dir, lock: lock}
	if fresh {
		p.empty()
		p.why = "a fresh start was asked for"
	}
	return p, nil
}

func (p *pins) close() {
	if p.lock >= 0 {
		_ = unix.Close(p.lock)
		p.lock = -1
	}
}

func (p *pins) path(name string) string { return filepath.Join(p.dir, name) }

// arrays returns those that are there, if they are all that is wanted; otherwise
// everything is removed, and there are none.
func (p *pins) arrays(parts []accel.Part) (list []*array, err error) {
	if list, err = p.load(parts); err == nil {
		return list, nil
	}
	for _, a := range list {
		a.close()
	}
	if !errors.Is(err, errOther) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("xdp: what is pinned in %s: %w", p.dir, permitted(err))
	}
	if names, readErr := os.ReadDir(p.dir); readErr == nil && len(names) > 0 {
		p.why = err.Error()
	}
	p.empty()
	return nil, nil
}

// errOther says that what is pinned is not what is wanted.
var errOther = errors.New("not adopted")

// CheckKept says why a plane of this build, in this network namespace, could not go on
// with what is pinned in a folder, whatever the sizes; nil also if nothing is there.
func CheckKept(dir string) error {
	err := (&pins{dir: dir}).check()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (p *pins) check() error {
	m, err := ebpf.LoadPinnedMap(p.path(layoutPin), nil)
	if err != nil {
		return fmt.Errorf("it is not complete: %w", err)
	}
	defer m.Close()
	var about [2]uint64
	if m.ValueSize() != 16 {
		return fmt.Errorf("%w: its layout is another", errOther)
	}
	if err := m.Lookup(uint32(0), &about); err != nil {
		return fmt.Errorf("its layout: %w", err)
	}
	number := about[0]
	if here, err := namespace(); err != nil {
		return err
	} else if about[1] != here {
		return fmt.Errorf("%w: it is of another network namespace", errOther)
	}
	if number != accel.Layout {
		return fmt.Errorf("%w: its layout is %d, this is %d", errOther, number, accel.Layout)
	}
	return nil
}

func (p *pins) load(parts []accel.Part) (list []*array, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	for _, part := range parts {
		m, err := ebpf.LoadPinnedMap(p.path(part.Name), nil)
		if err != nil {
			return list, fmt.Errorf("%s: %w", part.Name, err)
		}
		if part.Journal {
			p.forget(part.Name + nextSuffix)
		}
		want := (part.Size + shtab.SlotSize - 1) / shtab.SlotSize * shtab.SlotSize
		size := int(m.ValueSize()) * int(m.MaxEntries())
		if m.Type() != ebpf.Array || size != part.Size && size != want && (!part.Journal || size < part.Size) {
			m.Close()
			return list, fmt.Errorf("%w: %s has %d bytes, not %d: other sizes were asked for", errOther, part.Name, size, part.Size)
		}
		a, err := mapped(m)
		if err != nil {
			return list, err
		}
		list = append(list, a)
	}
	return list, nil
}

// namespace returns the calling thread's network namespace, by its number.
func namespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("xdp: the network namespace (is /proc mounted?): %w", err)
	}
	return st.Ino, nil
}

// seal says that everything is there.
func (p *pins) seal() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ulvs_layout", Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("xdp: cannot make an array: %w", permitted(err))
	}
	defer m.Close()
	here, err := namespace()
	if err != nil {
		return err
	}
	if err := m.Put(uint32(0), [2]uint64{accel.Layout, here}); err != nil {
		return fmt.Errorf("xdp: cannot write an array: %w", err)
	}
	return p.keep(layoutPin, m)
}

// keep pins something that can be.
func (p *pins) keep(name string, what interface{ Pin(string) error }) error {
	if err := what.Pin(p.path(name)); err != nil {
		return fmt.Errorf("xdp: cannot pin %s: %w", p.path(name), err)
	}
	return nil
}

// replace pins an array in the place of the one that has the name, in one step.
func (p *pins) replace(name string, a *array) error {
	next := name + nextSuffix
	p.forget(next)
	if err := p.keep(next, a); err != nil {
		return err
	}
	if err := os.Rename(p.path(next), p.path(name)); err != nil {
		p.forget(next)
		return fmt.Errorf("xdp: cannot pin %s: %w", p.path(name), err)
	}
	return nil
}

func (p *pins) forget(name string) { _ = os.Remove(p.path(name)) }

// link is the link that is there for an interface and mode, if it still is that
// interface's.
func (p *pins) link(name string, native bool, ifindex int) link.Link {
	at := linkPin(name, native)
	l, err := link.LoadPinnedLink(p.path(at), nil)
	if err != nil {
		return nil
	}
	if info, err := l.Info(); err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == ifindex {
		return l
	}
	p.forget(at)
	_ = l.Close()
	return nil
}

// forgetLinks takes the programs away from all interfaces but these, and from these
// in a mode that they are not to have.
func (p *pins) forgetLinks(interfaces []string) {
	for _, name := range p.names() {
		if strings.HasPrefix(name, linkPrefix) &&
			!slices.ContainsFunc(interfaces, func(i string) bool { return linkPin(i, native(i) == nil) == name }) {
			p.forget(name)
		}
	}
}

func (p *pins) names() (list []string) {
	entries, _ := os.ReadDir(p.dir)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// empty removes everything: first the programs, so that none works on arrays that
// are going.
func (p *pins) empty() {
	names := p.names()
	slices.SortStableFunc(names, func(a, b string) int {
		switch first := strings.HasPrefix(a, linkPrefix); {
		case first == strings.HasPrefix(b, linkPrefix):
			return 0
		case first:
			return -1
		}
		return 1
	})
	for _, name := range names {
		p.forget(name)
	}
}

// Detach removes what a plane has left in a folder of pins: its programs, its
// arrays, and the folder. It returns the interfaces that had programs, as far as
// they are in the calling thread's network namespace.
func Detach(dir string) (interfaces []string, err error) {
	p, err := openPins(dir, false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	for _, name := range p.names() {
		if !strings.HasPrefix(name, linkPrefix) {
			continue
		}
		l, err := link.LoadPinnedLink(p.path(name), nil)
		if err != nil {
			continue
		}
		if info, err := l.Info(); err == nil && info.XDP() != nil {
			if ifi, err := net.InterfaceByIndex(int(info.XDP().Ifindex)); err == nil {
				interfaces = append(interfaces, ifi.Name)
			}
		}
		_ = l.Close()
	}
	p.empty()
	if err := os.Remove(p.dir); err != nil {
		return interfaces, fmt.Errorf("xdp: %w", err)
	}
	return interfaces, nil
}

// Kept says where state is kept that outlives the process, or "" if it is not; and
// why what was there was not adopted, or "".
func (p *Plane) Kept() (dir, discarded string) {
	if p.pins == nil {
		return "", ""
	}
	return p.pins.dir, p.pins.why
}
