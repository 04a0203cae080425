package xdp

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
	dir   string
	fresh bool
	why   string   // nothing was adopted; "": there was nothing
	lock  int      // a descriptor of the folder, which one process has at a time; -1: closed
	dirs  []string // folders that were made, the innermost first
	links []string // links of this process, on interfaces that had none pinned
	words string   // Options.Words

	// Of a plane that has its memory: the arrays of parts, the header last, and whether
	// they are an earlier process's, or else are pinned.
	parts   []accel.Part
	arrays  []*array
	header  *header
	adopted bool
	placed  bool
	earlier bool // an earlier process had left something
}

const (
	layoutPin  = "layout"
	linkPrefix = "link-"
	// nextSuffix marks what is to take the place of another pin; a daemon that was killed
	// just then leaves it.
	nextSuffix = "-next"
)

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
		return fmt.Errorf("%s cannot be the folder for pins: %w", at, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is %w", dir, ErrNoBPFFS)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, at, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("%s cannot be the folder for pins: it cannot be written to by this user: %w", at, err)
	}
	return nil
}

func openPins(dir string, fresh bool) (*pins, error) {
	if err := CheckPins(dir); err != nil {
		return nil, err
	}
	p := &pins{dir: dir, fresh: fresh, lock: -1}
	err := p.makeFolders()
	if err == nil {
		p.lock, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = unix.Flock(p.lock, unix.LOCK_EX|unix.LOCK_NB)
	}
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("%s %w", dir, ErrBusy)
	default:
		err = fmt.Errorf("%s cannot be the folder for pins: %w", dir, err)
	}
	p.close()
	p.removeFolders()
	return nil, err
}

// ErrBusy says that a folder of pins is another daemon's, which is alive.
var ErrBusy = errors.New("is another daemon's: end that one first")

// makeFolders makes the folder, and those above it that are not there.
func (p *pins) makeFolders() error {
	for at := filepath.Clean(p.dir); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		p.dirs = append(p.dirs, at)
	}
	return os.MkdirAll(p.dir, 0o700)
}

// removeFolders removes those that were made, if nothing is in them.
func (p *pins) removeFolders() {
	for _, dir := range p.dirs {
		_ = os.Remove(dir)
	}
	p.dirs = nil
}

func (p *pins) close() {
	if p.lock >= 0 {
		_ = unix.Close(p.lock)
		p.lock = -1
	}
}

func (p *pins) path(name string) string { return filepath.Join(p.dir, name) }

// adopt returns the arrays that are there, if they are all that is wanted, and none if there
// is nothing that was worth to be kept. Otherwise the error wraps accel.ErrKept.
func (p *pins) adopt(parts []accel.Part) (list []*array, err error) {
	there, err := ReadKept(p.dir)
	if there == nil {
		return nil, nil
	}
	p.earlier = true
	if p.fresh {
		p.why = "a fresh start was asked for"
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if list, err = p.load(parts); err == nil {
		return list, nil
	}
	for _, a := range list {
		a.close()
	}
	switch {
	case !errors.As(err, new(otherError)) && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("what is pinned in %s: %w", p.dir, Permitted(err))
	case !there.Empty():
		return nil, &accel.Misfit{Why: err}
	}
	p.why = err.Error()
	return nil, nil
}

// part returns an array that is pinned, if it has a part's size. A journal may be larger.
func (p *pins) part(part accel.Part) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(p.path(part.Name), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", part.Name, err)
	}
	want := (part.Size + shtab.SlotSize - 1) / shtab.SlotSize * shtab.SlotSize
	size := int(m.ValueSize()) * int(m.MaxEntries())
	if m.Type() != ebpf.Array || size != part.Size && size != want && (!part.Journal || size < part.Size) {
		m.Close()
		return nil, otherError(fmt.Sprintf("it was made for another number of connections or templates (%s has %d bytes, not %d)", part.Name, size, part.Size))
	}
	return m, nil
}

func (p *pins) load(parts []accel.Part) (list []*array, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	for _, part := range parts {
		if part.Journal {
			p.forget(part.Name + nextSuffix)
		}
		m, err := p.part(part)
		if err != nil {
			return list, err
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
		return 0, fmt.Errorf("cannot look at the network namespace (is /proc mounted?): %w", err)
	}
	return st.Ino, nil
}

// keep pins something that can be.
func (p *pins) keep(name string, what interface{ Pin(string) error }) error {
	if err := what.Pin(p.path(name)); err != nil {
		return fmt.Errorf("cannot pin %s: %w", p.path(name), err)
	}
	return nil
}

// replace has an array in the place of a part's: if that is pinned, in one step.
func (p *pins) replace(part int, a *array) error {
	if p.adopted || p.placed {
		if err := p.rename(p.parts[part].Name, a); err != nil {
			return err
		}
	}
	p.arrays[part] = a
	return nil
}

// rename pins an array in the place of the one that has the name.
func (p *pins) rename(name string, a *array) error {
	next := name + nextSuffix
	p.forget(next)
	if err := p.keep(next, a); err != nil {
		return err
	}
	if err := os.Rename(p.path(next), p.path(name)); err != nil {
		p.forget(next)
		return fmt.Errorf("cannot pin %s: %w", p.path(name), err)
	}
	return nil
}

func (p *pins) forget(name string) { _ = os.Remove(p.path(name)) }

func (p *pins) names() (list []string) {
	entries, _ := os.ReadDir(p.dir)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// empty removes everything: first the programs, so that none works on arrays that are
// going, and then what says that the others are complete.
func (p *pins) empty() {
	names := p.names()
	for _, name := range names {
		if strings.HasPrefix(name, linkPrefix) {
			p.forget(name)
		}
	}
	p.forgetArrays()
}

// forgetArrays removes all but the links.
func (p *pins) forgetArrays() {
	p.forget(layoutPin)
	for _, name := range p.names() {
		if !strings.HasPrefix(name, linkPrefix) {
			p.forget(name)
		}
	}
}

// Detach removes what a plane has left in a folder of pins: its programs but for filters, its
// arrays, and the folder. It returns the interfaces that had programs, as far as
// they are in the calling thread's network namespace.
func Detach(dir string, ingress Programs) (interfaces []string, err error) {
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
			interfaces = append(interfaces, filtered(p.path(name), ingress)...)
			continue
		}
		if ifi, err := net.InterfaceByIndex(interfaceOf(l)); err == nil {
			interfaces = append(interfaces, ifi.Name)
		}
		_ = l.Close()
	}
	p.empty()
	if err := os.Remove(p.dir); err != nil {
		return interfaces, err
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
