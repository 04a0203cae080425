package xdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/accel"
)

// header is the array that is pinned last. Its layout stays whatever accel.Layout says:
// every version can say what another one left.
type header struct {
	layout      uint64
	namespace   uint64 // the network namespace, by its number
	services    uint32
	connections uint32
	words       [1000]byte // Options.Words, and zeros
}

const headerSize = 1024

func (h *header) setContents(services, connections int) {
	atomic.StoreUint32(&h.services, uint32(services))
	atomic.StoreUint32(&h.connections, uint32(connections))
}

// setWords writes down what fits as a whole, as half of it would mislead.
func (h *header) setWords(words string) {
	clear(h.words[:])
	if len(words) < len(h.words) {
		copy(h.words[:], words)
	}
}

// SetContents implements accel.Accelerator.
func (p *Plane) SetContents(services, connections int) {
	if p.pins != nil && p.pins.header != nil && !p.closed.Load() {
		p.pins.header.setContents(services, connections)
	}
}

// openHeader maps the header that goes with some arrays: the one that is there, or a new one.
func (p *pins) openHeader(parts []accel.Part, arrays []*array, kept bool) (a *array, err error) {
	if kept {
		var m *ebpf.Map
		if m, err = ebpf.LoadPinnedMap(p.path(layoutPin), nil); err == nil {
			a, err = mapped(m)
		}
	} else {
		a, err = newArray("ulvs_layout", headerSize)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the header of what is pinned: %w", Permitted(err))
	}
	p.parts, p.adopted = parts, kept
	p.arrays = append(append(p.arrays[:0], arrays...), a)
	p.header = &elements[header](a.memory, 1)[0]
	if !kept {
		p.header.layout = accel.Layout
		p.header.namespace, err = namespace()
	}
	return a, err
}

// forgetHeader ends that the header is written to, and that arrays are pinned.
func (p *pins) forgetHeader() {
	if p != nil {
		p.header, p.arrays = nil, nil
	}
}

// place pins the arrays in the place of what an earlier process left that is not gone on
// with, but for its programs, which go on until they are replaced.
func (p *pins) place() error {
	if p == nil {
		return nil
	}
	p.header.setWords(p.words)
	if p.adopted {
		return nil
	}
	p.placed = true
	p.forgetArrays()
	for i, part := range p.parts {
		if err := p.keep(part.Name, p.arrays[i]); err != nil {
			return err
		}
	}
	return p.keep(layoutPin, p.arrays[len(p.parts)]) // last: everything is there
}

// discard takes back what this process has pinned: everything, or the links that it has
// added to what it has adopted. It reports whether it had replaced what was there.
func (p *pins) discard() (replaced bool) {
	if p == nil || p.lock < 0 {
		return false
	}
	switch {
	case p.adopted:
		for _, name := range p.links {
			p.forget(name)
		}
	case p.placed:
		p.empty()
		p.dirs = append(p.dirs, p.dir)
	}
	p.removeFolders()
	return p.placed && p.earlier
}

// Kept is what an earlier process has left in a folder of pins.
type Kept struct {
	Dir string
	// Services and Connections are how many there were when it was last alive; -1: that
	// cannot be told.
	Services, Connections int
	// Words are its Options.Words, or "".
	Words string
}

// Empty reports whether nothing of value was left: no service.
func (k *Kept) Empty() bool { return k.Services == 0 }

// String says in words what is there.
func (k *Kept) String() string {
	count := func(n int, noun string) string {
		if n < 0 {
			return noun + "s"
		}
		if n == 1 {
			return "1 " + noun
		}
		return fmt.Sprintf("%d %ss", n, noun)
	}
	text := k.Dir + " keeps " + count(k.Services, "service") + " and " + count(k.Connections, "connection") + " of an earlier daemon"
	if k.Services < 0 {
		text += ", how many cannot be told"
	}
	return text
}

// ReadKept says what an earlier process has left in a folder of pins, and changes nothing;
// nil: nothing is there. What was left by one that was killed before it was ready has no
// services.
func ReadKept(dir string) (*Kept, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && len(names) == 0 {
		return nil, nil
	}
	unknown := &Kept{Dir: dir, Services: -1, Connections: -1}
	if err != nil {
		return unknown, fmt.Errorf("what is pinned in %s: %w", dir, err)
	}
	h, err := (&pins{dir: dir}).readHeader()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Kept{Dir: dir}, nil
	case err != nil:
		return unknown, fmt.Errorf("what is pinned in %s: %w", dir, Permitted(err))
	case !h.whole:
		return unknown, nil // a version that did not say
	}
	k := &Kept{Dir: dir, Services: int(h.services), Connections: int(h.connections)}
	if words, _, ended := bytes.Cut(h.words[:], []byte{0}); ended && utf8.Valid(words) {
		k.Words = strings.TrimSpace(string(words))
	}
	return k, nil
}

// pinnedHeader is a copy of the header; whole: it is not of a version that had less of it.
type pinnedHeader struct {
	header
	whole bool
}

// readHeader reads the pinned header, of whatever version.
func (p *pins) readHeader() (h pinnedHeader, err error) {
	m, err := ebpf.LoadPinnedMap(p.path(layoutPin), nil)
	if err != nil {
		return h, err
	}
	defer m.Close()
	value, err := m.LookupBytes(uint32(0))
	if err != nil {
		return h, err
	}
	h.whole = len(value) == headerSize
	value = append(value, make([]byte, headerSize)...)
	h.layout, h.namespace = binary.NativeEndian.Uint64(value), binary.NativeEndian.Uint64(value[8:])
	h.services, h.connections = binary.NativeEndian.Uint32(value[16:]), binary.NativeEndian.Uint32(value[20:])
	copy(h.words[:], value[24:])
	return h, nil
}

// otherError says why what is pinned is not what is wanted.
type otherError string

func (e otherError) Error() string { return string(e) }

// ErrOtherVersion says that another version has left what is pinned, which this one cannot go on with,
// whatever its options.
var ErrOtherVersion error = otherError("it is not of this version")

// CheckKept says why a plane of this build, in this network namespace, could not go on
// with what is pinned in a folder, whose parts are to have these sizes (director.Sizes);
// nil also if nothing is there.
func CheckKept(dir string, sizes map[string]int) error {
	p := &pins{dir: dir}
	err := p.check()
	for name, size := range sizes {
		if err != nil {
			break
		}
		var m *ebpf.Map
		if m, err = p.part(accel.Part{Name: name, Size: size, Journal: name == accel.PartJournal}); err == nil {
			_ = m.Close()
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// check says why what is pinned is not for this process, whatever the sizes.
func (p *pins) check() error {
	h, err := p.readHeader()
	if err != nil {
		return fmt.Errorf("it is not complete: %w", err)
	}
	here, err := namespace()
	if err != nil {
		return err
	}
	if h.namespace != here {
		return otherError("it is of another network namespace")
	}
	if h.layout != accel.Layout || !h.whole {
		return fmt.Errorf("%w: its layout is %d, and this version's is %d", ErrOtherVersion, h.layout, accel.Layout)
	}
	return nil
}
