package xdp

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// array is a BPF array and its memory. It has one element, which programs use as
// memory, or is one in which they look elements up.
type array struct {
	*ebpf.Map
	memory []byte
}

func newArray(name string, size int) (*array, error) { return newElements(name, size, 1) }

func newElements(name string, size, n int) (*array, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: uint32(n),
		Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make an array of %d elements of %d bytes: %w", n, size, Permitted(err))
	}
	return mapped(m)
}

// mapped maps an array. It is closed if that fails.
func mapped(m *ebpf.Map) (*array, error) {
	page := os.Getpagesize()
	length := (int(m.ValueSize())*int(m.MaxEntries()) + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("cannot map an array of %d bytes: %w", length, Permitted(err))
	}
	return &array{m, memory}, nil
}

// size is how many bytes the elements take.
func (a *array) size() int { return int(a.ValueSize()) * int(a.MaxEntries()) }

func (a *array) close() {
	_ = unix.Munmap(a.memory)
	a.memory = nil
	_ = a.Map.Close()
}

// verifierReach is how far the kernel's verifier lets a program go into an element
// (BPF_MAX_VAR_OFF, include/linux/bpf_verifier.h).
const verifierReach = 1 << 29

// newTable returns memory for the connection table: one element, or as many as there
// are slots where that is too large, for the verifier or for the kernel.
func newTable(name string, size int, lookupHelper bool) (*array, error) {
	if size < verifierReach && !lookupHelper {
		if a, err := newArray(name, size); err == nil || !errors.Is(err, unix.E2BIG) {
			return a, err
		}
	}
	return newElements(name, shtab.SlotSize, (size+shtab.SlotSize-1)/shtab.SlotSize)
}

// Memory implements accel.Accelerator.
func (p *Plane) Memory(list []accel.Part) (kept bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.crossings.open(); err != nil {
		return false, err
	}
	own := []accel.Part{
		{Name: "servers", Size: program.ServerSize * p.serversPerCPU},
		{Name: "counts", Size: program.CountSize * p.serversPerCPU * p.cpus},
		{Name: "settings", Size: program.SettingsSize},
		{Name: "rings", Size: 2 * shtab.RingsSize(p.cpus)},
	}
	all := append(append([]accel.Part{}, list...), own...)
	var arrays []*array
	if p.pins != nil {
		if arrays, err = p.pins.adopt(all); err != nil {
			return false, err
		}
	}
	if kept = arrays != nil; !kept {
		if arrays, err = newArrays(all, p.lookupHelper, p.pins != nil); err != nil {
			return false, err
		}
	}
	p.arrays = arrays
	if p.pins != nil {
		headerArray, err := p.pins.openHeader(all, arrays, kept)
		if err != nil {
			return false, err
		}
		p.arrays = append(arrays, headerArray)
	}
	p.parts = map[string]int{}
	for i := range list {
		p.parts[list[i].Name] = i
		switch a := arrays[i]; {
		case a == nil:
		case list[i].Journal:
			list[i].Block = a.memory[:a.size()]
		default:
			list[i].Block = a.memory[:list[i].Size]
		}
	}
	p.conns = arrays[0]
	for i, part := range list {
		switch part.Name {
		case accel.PartTemplates:
			p.templateArray = arrays[i]
		case accel.PartServices:
			p.serviceArray = arrays[i]
		case accel.PartSequences:
			p.sequenceArray = arrays[i]
		case accel.PartCounts:
			p.connCountArray = arrays[i]
			p.once = elements[uint64](arrays[i].memory, 2*accel.Counted)[accel.Counted:]
		}
	}
	p.lookupHelper = p.conns.MaxEntries() > 1
	last := arrays[len(list):]
	p.serverArray, p.countArray, p.settingsArray = last[0], last[1], last[2]
	p.servers = elements[server](p.serverArray.memory, p.serversPerCPU)
	p.counts = elements[count](p.countArray.memory, p.serversPerCPU*p.cpus)
	p.settings = &elements[settings](p.settingsArray.memory, 1)[0]
	p.kept = kept
	// An earlier daemon's programs end to open connections before the tables are
	// adopted.
	p.ringArray = last[3]
	if err := closeRings(p); err != nil {
		return false, err
	}
	if !kept {
		p.settings.setGeneration(0)
		return false, nil
	}
	return true, p.Grace()
}

// mapName is the name that an array has in the kernel, whose names are short.
func mapName(part string) string {
	name := "ulvs_" + strings.ReplaceAll(part, "-", "_")
	return name[:min(len(name), unix.BPF_OBJ_NAME_LEN-1)]
}

// Replace implements accel.Accelerator.
func (p *Plane) Replace(journal string, size int, fill func([]byte) error) error {
	p.mu.Lock()
	at, there := p.parts[journal]
	there = there && p.arrays != nil && p.arrays[at] != nil
	p.mu.Unlock()
	if !there {
		return fmt.Errorf("there is no %s to be replaced", journal)
	}
	a, err := newArray(mapName(journal), size)
	if err != nil {
		return err
	}
	if err = fill(a.memory[:size]); err == nil {
		err = p.pins.replace(at, a)
	}
	if err != nil {
		a.close()
		return err
	}
	p.mu.Lock()
	p.arrays[at], a = a, p.arrays[at]
	p.mu.Unlock()
	a.close()
	return nil
}

// Release implements accel.Accelerator. What is pinned stays for another process.
func (p *Plane) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.arrays == nil {
		return
	}
	p.leave()
	p.crossings.close()
	p.pins.forgetHeader()
	for _, a := range p.arrays {
		if a != nil {
			a.close()
		}
	}
	p.arrays, p.servers, p.counts, p.settings = nil, nil, nil, nil
	p.conns, p.serverArray, p.countArray, p.settingsArray = nil, nil, nil, nil
	p.templateArray, p.serviceArray, p.sequenceArray, p.connCountArray, p.ringArray = nil, nil, nil, nil, nil
}

// newArrays makes the arrays of parts; that of the journal is nil, unless they will be pinned.
func newArrays(parts []accel.Part, lookupHelper, pinned bool) (list []*array, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, a := range list {
			if a != nil {
				a.close()
			}
		}
	}()
	for i, part := range parts {
		if part.Journal && !pinned {
			list = append(list, nil)
			continue
		}
		var a *array
		if i == 0 {
			a, err = newTable(mapName(part.Name), part.Size, lookupHelper)
		} else {
			a, err = newArray(mapName(part.Name), part.Size)
		}
		if err != nil {
			return list, err
		}
		list = append(list, a)
	}
	return list, nil
}
