package xdp

import (
	"fmt"
	"iter"
	"maps"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// Adopted reports whether Memory was what an earlier process left.
func (p *Plane) Adopted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept
}

// Unfit is an interface in whose driver a program is though something speaks against that.
type Unfit struct {
	Interface string
	Why       error
}

// Unfit returns those that there are, by Options.Native.
func (p *Plane) Unfit() (list []Unfit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.attached {
		if at.private == 0 && at.unfit != nil {
			list = append(list, Unfit{at.name, needs(at.unfit)})
		}
	}
	return list
}

// look finds the place of an attachment's program among those at its interface's ingress. Those before it may
// keep packets from it.
func (at *attachment) look(ingress Ingress) {
	if at.private == 0 || ingress == nil {
		return
	}
	info, err := at.prog.Info()
	if err != nil {
		at.place = "its place is not known: " + err.Error()
		return
	}
	id, _ := info.ID()
	switch place, names, err := ingress.Place(at.ifindex, id); {
	case err != nil:
		at.place = "its place is not known: " + err.Error()
	case place == 0:
		at.place = "and somebody has detached it"
	case len(names) == 1:
		at.place = "the only program there"
	default:
		at.place = fmt.Sprintf("%d of %d programs there: %s", place, len(names), strings.Join(names, ", "))
	}
}

// Facts implements dataplane.Described.
func (p *Plane) Facts() (facts []dataplane.Fact) {
	p.mu.Lock()
	defer p.mu.Unlock()
	links, _ := interfaces{p}.given() // of those that cannot be found nothing is said
	served := map[int]string{}
	for _, l := range links {
		served[l.Index] = "AF_PACKET; its program is tried again each second"
	}
	for at := range (interfaces{p}).modes() {
		served[at.ifindex] = at.mode()
	}
	facts = hostlink.Facts(links, served)
	for _, at := range p.attached[:min(1, len(p.attached))] {
		facts = append(facts, dataplane.Fact{Name: "program", Value: size(at.prog, p.lookupHelper, at.socketMap != nil)})
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
		maps.Copy(all, p.sockets.past)
		for _, at := range p.attached {
			for _, q := range at.queues {
				q.addTo(all)
			}
		}
	}
	return all
}

// modes goes through what there is of each interface: that at its ingress, or in its driver alone. The
// caller holds mu.
func (p interfaces) modes() iter.Seq[*attachment] {
	return func(yield func(*attachment) bool) {
		for _, at := range p.attached {
			at.look(p.ingress)
			if (at.private != 0 || p.ingress == nil) && !yield(at) {
				return
			}
		}
	}
}

// Mode says for each interface whether the program is in its driver or at its ingress, and why there.
func (p *Plane) Mode() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for at := range (interfaces{p}).modes() {
		list = append(list, at.name+" "+at.mode())
	}
	return strings.Join(list, "; ")
}
