package xdp

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// Accelerate implements accel.Accelerator: it attaches a program to each
// interface, in the network namespace of the calling thread.
func (p *Plane) Accelerate(a accel.Acceleration) error {
	p.mu.Lock()
	err := interfaces{p}.accelerate(a)
	refused := interfaces{p}.drop()
	if err == nil {
		interfaces{p}.settle()
	}
	p.mu.Unlock()
	closeAll(refused, p)
	if err != nil {
		p.detach()
	}
	return err
}

// accelerate is Accelerate; the caller holds mu.
func (p interfaces) accelerate(a accel.Acceleration) error {
	if p.conns == nil {
		return errors.New("xdp.Plane: call Memory before Accelerate")
	}
	t, err := learnTicks(a.Hz)
	if err != nil {
		return Permitted(err)
	}
	links, err := p.given()
	if err != nil {
		return err
	}
	// Whatever may fail comes before what others can see, as far as it can.
	p.acceleration, p.ticks, p.hz = a, t, a.Hz
	for _, l := range links {
		if !l.There() {
			continue
		}
		list, err := p.prepare(l, a, t)
		p.attached = append(p.attached, list...)
		if err != nil {
			return err
		}
	}
	err = p.pins.place()
	for _, at := range p.attached {
		if err == nil {
			err = p.link(at)
		}
	}
	return err
}

// attachment is a program on its way to an interface.
type attachment struct {
	given, name string
	ifindex     int
	mtu         int
	mac         dataplane.MAC // the interface's own, which is in the program
	prog        *ebpf.Program
	private     int         // the interface by which Go gets packets, if it is at the ingress; or 0: in the driver
	front       *attachment // of one at the ingress: that in the driver, from which it gets what that passes; or nil
	unfit       error       // what speaks against a program in the driver, or nil
	place       string      // among the programs at the ingress, when it was looked at last
	sockets     string      // what of AF_XDP is used

	socketMap *ebpf.Map // or nil
	queues    []*queue
	link      Attached
}

// mode says how the interface is served.
func (at *attachment) mode() string {
	switch {
	case at.private == 0:
		return "native, " + at.sockets
	case at.front != nil:
		return at.front.mode() + "; behind it tcx, " + at.place
	}
	return "tcx (" + at.unfit.Error() + "), " + at.place
}

// Check says why programs cannot be put in front of interfaces, as far as can be told
// without doing it. One that is not there is taken when it comes.
func Check(interfaces []string) error {
	for _, name := range interfaces {
		if l, err := hostlink.Find(name); err == nil && !l.Ethernet {
			return notEthernet(name)
		}
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return Permitted(err)
	}
	const hz = 250
	if _, err := learnTicks(hz); err != nil {
		return Permitted(err)
	}
	return nil
}

func notEthernet(name string) error {
	return fmt.Errorf("interface %s is not Ethernet: give one that is", name)
}

// prepare loads the programs for an interface: first what is at its ingress. What there is of
// them with an error is to be closed.
func (p interfaces) prepare(l dataplane.Link, a accel.Acceleration, t program.Ticks) (list []*attachment, err error) {
	if !l.Ethernet {
		return nil, notEthernet(l.Name)
	}
	if list, err = p.choose(l); err != nil {
		return nil, err
	}
	if err := p.claims.open(canOpen(p.Plane)); err != nil {
		return list, err
	}
	for _, at := range list {
		p.openAll(at)
		if at.prog, err = p.load(a, t, at); err != nil {
			return list, fmt.Errorf("the program for %s does not load: %w", l.Name, err)
		}
	}
	return list, nil
}

// errEverywhere is why there is no program in a driver that may be fit.
var errEverywhere = errors.New("it was asked for")

// choose says where an interface's programs are to be. One at the ingress gets what is in no driver, and
// what one there passes.
func (p interfaces) choose(l dataplane.Link) (list []*attachment, err error) {
	at := attachment{given: l.Given, name: l.Name, ifindex: l.Index, mtu: l.MTU, mac: l.MAC, unfit: native(l.Name)}
	if p.everywhere {
		at.unfit = errEverywhere
	}
	var front *attachment
	if at.unfit == nil || p.inDriver {
		front = new(at)
	} else if p.ingress == nil {
		return nil, fmt.Errorf("no XDP program is fit for the driver of %s: %w", l.Name, at.unfit)
	}
	if p.ingress != nil {
		behind := new(at)
		behind.front = front
		if behind.private, err = p.ingress.Private(at.ifindex); err != nil {
			return nil, err
		}
		list = append(list, behind)
	}
	if front != nil {
		list = append(list, front)
	}
	return list, nil
}

// pinKind is how the name of an attachment's pin begins.
func (at *attachment) pinKind() string {
	if at.private != 0 {
		return ingressPin
	}
	return nativePin
}

// beside is how that of another attachment of its interface begins, or "".
func (p interfaces) beside(at *attachment) string {
	switch {
	case at.front != nil:
		return nativePin
	case at.private == 0 && p.ingress != nil:
		return ingressPin
	}
	return ""
}

// openAll opens an attachment's sockets, or says why there are none.
func (p interfaces) openAll(at *attachment) {
	if without := p.openSockets(at); without != nil {
		at.sockets = "no AF_XDP (" + without.Error() + ")"
		return
	}
	mode := "copy"
	if zero, _ := at.queues[0].s.Mode(); zero {
		mode = "zero copy"
	}
	at.sockets = fmt.Sprintf("AF_XDP %s on %d queues", mode, len(at.queues))
}

// link puts a program in front of an interface: in the place of the one that is
// there, if that was kept.
func (p interfaces) link(at *attachment) error {
	var l Attached
	var had bool
	var stale []string
	var err error
	if p.pins != nil {
		var kept link.Link
		kept, had, stale = p.pins.link(at.given, at.pinKind(), p.beside(at), at.ifindex)
		if kept != nil && kept.Update(at.prog) != nil {
			p.pins.forget(linkPin(at.given, at.pinKind()))
			_ = kept.Close()
			kept = nil
		}
		l = kept
	}
	if at.private == 0 { // programs of two kinds of XDP exclude each other
		p.pins.forgetAll(stale)
	}
	if l == nil {
		l, err = at.attach(p.ingress, p.pins, had)
	}
	switch {
	case err == nil:
		at.link = l
	case at.private == 0 && p.ingress != nil && !errors.Is(err, ErrTaken):
		err = nil // what is at the ingress does
	}
	if at.private != 0 && err == nil {
		p.pins.forgetAll(stale)
	}
	return err
}

// drop gives up attachments whose driver has taken no program, and returns them, to be closed without the
// plane's lock, which the caller holds.
func (p interfaces) drop() (refused []*attachment) {
	for _, at := range p.attached {
		if front := at.front; front != nil && front.link == nil {
			at.front, at.unfit = nil, front.unfit
			refused = append(refused, front)
		}
	}
	p.attached = slices.DeleteFunc(p.attached, func(at *attachment) bool {
		return at.private == 0 && at.link == nil && p.ingress != nil
	})
	return refused
}

// attach attaches the program to an interface that has none of this daemon's there, and pins the
// link.
func (at *attachment) attach(ingress Ingress, p *pins, had bool) (l Attached, err error) {
	if at.private != 0 {
		l, err = ingress.Attach(at.prog, at.ifindex)
	} else if l, err = attach(at.prog, at.ifindex); err != nil {
		at.unfit = unfit(err)
	}
	if err != nil {
		if ownerOf(attached(at.ifindex), nil) == OwnerULVS {
			err = fmt.Errorf("%w (%w)", ErrTaken, err)
		}
		if at.private != 0 {
			return nil, fmt.Errorf("cannot attach a program to the ingress of %s: %w", at.name, Permitted(err))
		}
		return nil, fmt.Errorf("cannot attach an XDP program to %s: %w", at.name, unfit(err))
	}
	if p != nil {
		if err := p.keepLink(at.given, at.pinKind(), had, l); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

// source returns the program for an interface with these addresses.
func (p *Plane) source(a accel.Acceleration, t program.Ticks, ifindex int, macs []dataplane.MAC,
	m *ebpf.Map) *program.Config {
	s := &program.Config{
		Acceleration: a, Conns: p.conns.FD(), Servers: p.serverArray.FD(), Counts: p.countArray.FD(),
		Settings:     p.settingsArray.FD(),
		LookupHelper: p.lookupHelper, Ifindex: ifindex, MACs: macs, Ticks: t, ServersPerCPU: p.serversPerCPU,
		CPUs: p.cpus, Compared: p.compared, Path: program.Forward(), WeakOrder: runtime.GOARCH != "amd64",
	}
	s.Claims, s.ClaimBuckets, s.Rules = p.claims.in()
	s.Behind, s.GivesBack = p.ingress != nil, p.Injects()
	if p.crossings.counts != nil {
		s.Crossings = p.crossings.counts.FD()
	}
	if m != nil {
		s.Sockets, s.Queues = m.FD(), int(m.MaxEntries())
	}
	if canOpen(p) {
		s.Services, s.Sequences = p.serviceArray.FD(), p.sequenceArray.FD()
		s.TemplateTable, s.Rings = p.templateArray.FD(), p.ringArray.FD()
		s.ConnCounts = p.connCountArray.FD()
	}
	return s
}

// canOpen reports whether programs open connections.
func canOpen(p *Plane) bool {
	return !p.lookupHelper && p.serviceArray != nil && p.sequenceArray != nil && p.templateArray != nil &&
		p.connCountArray != nil && p.serversPerCPU <= accel.Counted &&
		len(p.templateArray.memory) < verifierReach
}

// fewCompared is how many real servers programs compare at first: the kernel takes more than twice
// as long to verify one that compares as many as can be (preselect.MostCompared).
const fewCompared = 16

// ProgramName is what bpftool lists the program by, and tc a filter.
const ProgramName = "ulvs"

// load loads the program for an attachment.
func (p *Plane) load(a accel.Acceleration, t program.Ticks, at *attachment) (*ebpf.Program, error) {
	source := p.source(a, t, at.ifindex, macs(at.mac, p.mac), at.socketMap)
	kind := ebpf.XDP
	if source.Private = at.private; at.private != 0 {
		kind, source.Hook = ebpf.SchedCLS, program.TC
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: ProgramName, Type: kind, License: "GPL",
		Instructions: source.Assemble()})
	if err != nil {
		return nil, Permitted(err)
	}
	return prog, nil
}
