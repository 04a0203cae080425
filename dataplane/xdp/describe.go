package xdp

import (
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/ulvs/ulvs/dataplane"
)

// Adopted reports whether Memory was what an earlier process left.
func (p *Plane) Adopted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept
}

// Slower is an interface that is served in generic mode, and why.
type Slower struct {
	Interface string
	Why       error
}

// Slower returns the interfaces in front of which the program is, but not in their driver.
func (p *Plane) Slower() []Slower {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slower
}

// Facts implements dataplane.Described.
func (p *Plane) Facts() (facts []dataplane.Fact) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, mode := range p.modes {
		facts = append(facts, dataplane.Fact{Name: p.interfaces[i], Value: mode})
	}
	for _, prog := range p.progs[:min(1, len(p.progs))] {
		facts = append(facts, dataplane.Fact{Name: "program", Value: size(prog, p.lookupHelper, len(p.socketMaps) > 0)})
	}
	pinned := "nothing"
	if p.pins != nil {
		pinned = p.pins.dir + ": " + strings.Join(p.pins.names(), ", ")
	}
	return append(facts, dataplane.Fact{Name: "pinned", Value: pinned})
}

// size says how large a program is, and which variant.
func size(prog *ebpf.Program, lookupHelper, sockets bool) string {
	text := "table addressed as memory"
	if lookupHelper {
		text = "table looked up"
	}
	if sockets {
		text += ", with sockets"
	}
	info, err := prog.Info()
	if err != nil {
		return text
	}
	if translated, err := info.TranslatedSize(); err == nil {
		const instruction = 8
		text = fmt.Sprintf("%d instructions, ", translated/instruction) + text
	}
	if native, err := info.JitedSize(); err == nil && native > 0 {
		text = fmt.Sprintf("%d bytes of machine code, ", native) + text
	}
	return text
}

// Counters implements dataplane.Plane: the slow plane's, and xdp_frames, what the
// program forwarded.
func (p *Plane) Counters() map[string]uint64 {
	all := maps.Clone(p.Plane.Counters())
	p.mu.Lock()
	defer p.mu.Unlock()
	var frames uint64
	for i := range p.counts {
		n, _ := p.counts[i].load()
		frames += n
	}
	all["xdp_frames"] = frames
	if p.sockets != nil {
		for _, q := range p.sockets.queues {
			for name, n := range q.s.Counters() {
				all["af_xdp_"+name] += n
			}
		}
	}
	return all
}

// Mode says for each interface whether the program is in its driver or in front of
// the host's stack, and why there.
func (p *Plane) Mode() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for i, mode := range p.modes {
		list = append(list, p.interfaces[i]+" "+mode)
	}
	return strings.Join(list, "; ")
}

// mode says how the sockets of an interface get their frames.
func (s *sockets) mode(ifindex int) string {
	n, mode := 0, ""
	for _, q := range s.queues {
		if q.ifindex != ifindex {
			continue
		}
		n++
		if zero, _ := q.s.Mode(); zero {
			mode = "zero copy"
		} else {
			mode = "copy"
		}
	}
	return fmt.Sprintf("%s on %d queues", mode, n)
}
