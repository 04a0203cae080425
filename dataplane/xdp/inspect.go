package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// Remains is what is pinned in a folder, seen from outside: what goes on while the daemon
// whose it is has ended, or does not answer.
type Remains struct {
	// Interfaces are those in front of which programs are, and how: "native" or "tcx".
	// Gone are those that had one, by the names that were given.
	Interfaces []dataplane.Fact
	Gone       []string
	// Silent is for how long no daemon has shown itself to the programs, to a tick; -1:
	// not known. Alone is whether they therefore forward what they would leave to it.
	Silent time.Duration
	Alone  bool
	// Connections and Templates are how many entries the tables have; -1: not known.
	Connections, Templates int
	// OtherVersion says that another version has left it, which alone could go on with it.
	OtherVersion bool
	// Journal is a copy of the journal, for director.CountJournal; nil: not known.
	Journal []byte
}

// Inspect looks at what is pinned in a folder, and changes nothing, also while its daemon
// runs. The error wraps fs.ErrNotExist where there is nothing, and ErrNotPermitted where this
// process may not look.
func Inspect(dir string) (*Remains, error) {
	p := &pins{dir: dir, lock: -1}
	other := p.check()
	var of otherError
	if other != nil && !errors.As(other, &of) {
		return nil, fmt.Errorf("what is pinned in %s: %w", dir, Permitted(other))
	}
	r := &Remains{Silent: -1, Connections: -1, Templates: -1, OtherVersion: errors.Is(other, ErrOtherVersion)}
	for _, name := range p.names() {
		if at, is := strings.CutPrefix(name, linkPrefix); is {
			mode, from, _ := strings.Cut(at, "-")
			if f := p.linked(name, from, mode); f.Value != "" {
				r.Interfaces = append(r.Interfaces, f)
			} else if !slices.Contains(r.Gone, from) {
				r.Gone = append(r.Gone, from)
			}
		}
	}
	if other != nil { // its memory may be laid out in another way
		return r, nil
	}
	var hz uint32
	r.Connections, hz = p.count(accel.PartConns)
	r.Templates, _ = p.count(accel.PartTemplates)
	if p.view(accel.PartJournal, func(block []byte) { r.Journal = append(r.Journal, block...) }) != nil {
		r.Journal = nil
	}
	_ = p.view("settings", func(block []byte) {
		if hz == 0 {
			return
		}
		beat := binary.NativeEndian.Uint32(block[program.SettingsHeartbeat:])
		tick := time.Second / time.Duration(hz)
		since := int32(uint32(dataplane.Monotonic()/tick) - beat)
		r.Silent = max(time.Duration(since)*tick, 0)
		r.Alone = since >= int32(program.HeartbeatTimeout*hz)
	})
	return r, nil
}

// linked says which interface a pinned link is for, and in which mode, "" if it is gone.
func (p *pins) linked(pin, name, mode string) dataplane.Fact {
	l, err := link.LoadPinnedLink(p.path(pin), nil)
	if err != nil {
		if filter, none := ebpf.LoadPinnedProgram(p.path(pin), nil); none == nil { // it says nothing of its interface
			_ = filter.Close()
			if _, gone := net.InterfaceByName(name); gone != nil {
				return dataplane.Fact{Name: name}
			}
			return dataplane.Fact{Name: name, Value: mode}
		}
		return dataplane.Fact{Name: name, Value: mode + " (" + err.Error() + ")"}
	}
	defer l.Close()
	ifindex := interfaceOf(l)
	if ifindex == 0 {
		return dataplane.Fact{Name: name}
	}
	if ifi, err := net.InterfaceByIndex(ifindex); err == nil {
		name = ifi.Name
	}
	return dataplane.Fact{Name: name, Value: mode}
}

// view maps a pinned array for a look at it.
func (p *pins) view(name string, look func(block []byte)) error {
	// Opened for reading alone it could not be mapped (kernel/bpf/syscall.c, bpf_map_mmap).
	m, err := ebpf.LoadPinnedMap(p.path(name), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", p.path(name), err)
	}
	defer m.Close()
	memory, err := unix.Mmap(m.FD(), 0, int(m.ValueSize())*int(m.MaxEntries()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("cannot map %s: %w", p.path(name), err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	look(memory)
	return nil
}

func (p *pins) count(name string) (entries int, hz uint32) {
	entries = -1
	_ = p.view(name, func(block []byte) {
		if n, ticks, err := shtab.Count(block); err == nil {
			entries, hz = n, ticks
		}
	})
	return entries, hz
}
