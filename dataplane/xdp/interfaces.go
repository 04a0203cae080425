package xdp

import (
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlink"
	"github.com/ulvs/ulvs/internal/preselect"
)

// macs are the addresses to which a program takes frames: the interface's own and, unless it
// is zero, another one.
func macs(own, other dataplane.MAC) []dataplane.MAC {
	if other == (dataplane.MAC{}) {
		return []dataplane.MAC{own}
	}
	return []dataplane.MAC{own, other}
}

// interfaces has programs in front of a plane's interfaces as those come, go and change.
type interfaces struct{ *Plane }

var (
	_ dataplane.LinkUser  = interfaces{}
	_ dataplane.Following = (*Plane)(nil)
)

// given are the interfaces as the slow plane follows them, or else as they are now.
func (p interfaces) given() (links []dataplane.Link, err error) {
	if f, follows := p.Plane.Plane.(dataplane.Following); follows {
		return f.Links(), nil
	}
	for _, name := range p.interfaces {
		l, err := hostlink.Find(name)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// Links implements dataplane.Following.
func (p *Plane) Links() []dataplane.Link {
	links, _ := interfaces{p}.given()
	return links
}

// Follow implements dataplane.Following.
func (p *Plane) Follow(u dataplane.LinkUser) {
	if f, follows := p.Plane.(dataplane.Following); follows {
		f.Follow(u)
	}
}

// follow hears from the slow plane what becomes of the interfaces, if that knows.
func (p interfaces) follow() { p.Plane.Follow(p) }

// Take implements dataplane.LinkUser.
func (p interfaces) Take(l dataplane.Link) error {
	p.mu.Lock()
	if p.sockets != nil {
		for _, gone := range p.sockets.gone {
			p.sockets.umem.Reclaim(gone)
		}
		p.sockets.gone = nil
	}
	list, err := p.prepare(l, p.acceleration, p.ticks)
	for _, at := range list {
		if err == nil {
			err = p.link(at)
		}
	}
	if err != nil {
		p.mu.Unlock()
		closeAll(list, p.Plane)
		return err
	}
	p.attached = append(p.attached, list...)
	refused := p.drop()
	p.settle()
	for _, at := range p.of(l) {
		at.carry(p.handler, p.failed)
	}
	list[0].look(p.ingress)
	mode := list[0].mode()
	p.mu.Unlock()
	closeAll(refused, p.Plane)
	p.log.Info("the program is in front of an interface that was not there", "interface", l.Name, "mode", mode)
	return nil
}

// Lose implements dataplane.LinkUser. The pin stays, without an interface: it says that there was
// one.
func (p interfaces) Lose(l dataplane.Link) {
	p.mu.Lock()
	list := p.of(l)
	if len(list) == 0 {
		p.mu.Unlock()
		return
	}
	p.attached = slices.DeleteFunc(p.attached, func(at *attachment) bool { return at.ifindex == l.Index })
	p.settle()
	if p.sockets != nil { // of sockets that its MTU has ended there may be chunks too
		p.sockets.gone = append(p.sockets.gone, l.Index)
	}
	p.mu.Unlock()
	for _, at := range list {
		_ = at.link.Detach() // it may be in another namespace, with its program
		at.close(p.Plane)
		if at.private != 0 {
			p.ingress.Lose(at.ifindex)
		}
	}
}

// of returns the attachments of an interface.
func (p interfaces) of(l dataplane.Link) (list []*attachment) {
	for _, at := range p.attached {
		if at.ifindex == l.Index {
			list = append(list, at)
		}
	}
	return list
}

// settle has servers reached by the interfaces that have programs. The caller holds mu.
func (p interfaces) settle() {
	out := map[int]bool{}
	for _, at := range p.attached {
		out[at.ifindex] = out[at.ifindex] || at.private == 0
	}
	p.egress.settle(out, p.servers)
}

// Change implements dataplane.LinkUser: the program has the interface's address, and sockets have
// no room for frames of a larger MTU.
func (p interfaces) Change(was, is dataplane.Link) {
	p.mu.Lock()
	var old []attachment
	for _, at := range p.of(is) {
		at.name = is.Name
		if was.MAC != is.MAC || (was.MTU > socketMTU) != (is.MTU > socketMTU) {
			old = append(old, p.replace(at, is))
		}
	}
	p.mu.Unlock()
	for i := range old {
		old[i].close(p.Plane)
	}
}

// replace replaces an interface's program, and its sockets if those are to be others. It
// returns what is not used any more. The caller holds mu.
func (p interfaces) replace(at *attachment, l dataplane.Link) (old attachment) {
	next := *at
	next.mac = l.MAC
	sockets := (at.mtu > socketMTU) != (l.MTU > socketMTU)
	if next.mtu = l.MTU; sockets {
		next.socketMap, next.queues = nil, nil
		p.openAll(&next)
	}
	prog, err := p.load(p.acceleration, p.ticks, &next)
	if err == nil {
		if err = at.link.Update(prog); err != nil {
			_ = prog.Close()
		}
	}
	if err != nil {
		if sockets {
			old = attachment{socketMap: next.socketMap, queues: next.queues}
		}
		p.log.Error("an interface has changed, and its program cannot be replaced: its packets are "+
			"the daemon's; start that anew with --takeover", "interface", at.name, "err", err)
		return old
	}
	old.prog = at.prog
	if sockets {
		old.socketMap, old.queues = at.socketMap, at.queues
		next.carry(p.handler, p.failed)
	}
	next.prog = prog
	*at = next
	return old
}

// compareMore has all programs compare as many real servers as can be. Packets find the one or the
// other program.
func (p interfaces) compareMore() {
	p.mu.Lock()
	list := slices.Clone(p.attached)
	if len(list) == 0 {
		p.compared = preselect.MostCompared // by those that come
	}
	p.mu.Unlock()
	for _, at := range list {
		loads, err := p.compareMoreAt(at)
		if err != nil {
			p.log.Warn("the program cannot be replaced by one that compares more real servers: connections of "+
				"services that have more are opened by the daemon", "interface", at.name, "err", err)
		}
		if !loads {
			return
		}
	}
}

// compareMoreAt replaces an interface's program, if it is there, and reports whether one that
// compares more can be loaded. Others wait meanwhile, as long as the kernel verifies one.
func (p interfaces) compareMoreAt(at *attachment) (loads bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() || !slices.Contains(p.attached, at) {
		return true, nil // the link may be another daemon's by now, or has gone
	}
	p.compared = preselect.MostCompared
	prog, err := p.load(p.acceleration, p.ticks, at)
	if err != nil {
		p.compared = fewCompared
		return false, err
	}
	if err := at.link.Update(prog); err != nil {
		_ = prog.Close()
		return true, err
	}
	_ = at.prog.Close()
	at.prog = prog
	return true, nil
}

func closeAll(list []*attachment, p *Plane) {
	for _, at := range list {
		at.close(p)
	}
}

// close gives back what an attachment has; it may have nothing, or not all. The caller does
// not hold the plane's lock, which those may want who have frames of its sockets.
func (at *attachment) close(p *Plane) {
	if at == nil {
		return
	}
	if at.link != nil {
		_ = at.link.Close()
	}
	p.endQueues(at.queues)
	if at.prog != nil {
		_ = at.prog.Close()
	}
	if at.socketMap != nil {
		_ = at.socketMap.Close()
	}
}
