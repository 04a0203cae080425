package xdp

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
)

// Accelerate implements accel.Accelerator: it attaches a program to each
// interface, in the network namespace of the calling thread.
func (p *Plane) Accelerate(a accel.Acceleration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return errors.New("xdp.Plane: call Memory before Accelerate")
	}
	t, err := learnTicks(a.Hz)
	if err != nil {
		return permitted(err)
	}
	// Whatever may fail comes before what others can see, as far as it can.
	out := map[int]bool{}
	var list []*attachment
	for _, name := range p.interfaces {
		at, err := p.prepare(name, a, t)
		if err == nil {
			list, out[at.ifindex] = append(list, at), true
			continue
		}
		p.detach()
		return err
	}
	err = p.pins.place()
	for _, at := range list {
		if err == nil {
			err = p.link(at)
		}
	}
	if err != nil {
		p.detach()
		return err
	}
	p.out, p.hz = out, a.Hz
	p.attached, p.acceleration, p.ticks = list, a, t
	return nil
}

// attachment is a program on its way to an interface.
type attachment struct {
	name    string
	ifindex int
	prog    *ebpf.Program
	generic error  // why it is not for the driver, or nil
	sockets string // what of AF_XDP is used

	mac       dataplane.MAC // the interface's own, which is in the program
	socketMap *ebpf.Map     // or nil
	link      link.Link
}

// ethernet returns an interface, if programs can be put in front of it.
func ethernet(name string) (*net.Interface, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find interface %s: %w", name, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is not Ethernet: give one that is", name)
	}
	return ifi, nil
}

// Check says why programs cannot be put in front of interfaces, as far as can be told
// without doing it.
func Check(interfaces []string) error {
	for _, name := range interfaces {
		if _, err := ethernet(name); err != nil {
			return err
		}
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return permitted(err)
	}
	const hz = 250
	if _, err := learnTicks(hz); err != nil {
		return permitted(err)
	}
	return nil
}

// prepare loads the program for an interface.
func (p *Plane) prepare(name string, a accel.Acceleration, t program.Ticks) (*attachment, error) {
	ifi, err := ethernet(name)
	if err != nil {
		return nil, err
	}
	at := &attachment{name: name, ifindex: ifi.Index, mac: dataplane.MAC(ifi.HardwareAddr)}
	if !p.inDriver {
		at.generic = native(name)
	}
	var without error
	at.socketMap, without = p.openSockets(ifi.Index, at.generic == nil)
	if at.socketMap != nil {
		at.sockets = "AF_XDP " + p.sockets.mode(ifi.Index)
	} else {
		at.sockets = "no AF_XDP (" + without.Error() + ")"
	}
	if at.prog, err = p.load(a, t, ifi.Index, macs(at.mac, p.mac), at.socketMap); err != nil {
		return nil, fmt.Errorf("the program for %s does not load: %w", name, err)
	}
	return at, nil
}

// link puts a program in front of an interface: in the place of the one that is
// there, if that was kept.
func (p *Plane) link(at *attachment) error {
	var l link.Link
	var had bool
	var err error
	inDriver := at.generic == nil
	if p.pins != nil {
		if l = p.pins.link(at.name, inDriver, at.ifindex); l != nil {
			if had = true; l.Update(at.prog) != nil {
				p.pins.forget(linkPin(at.name, inDriver))
				_ = l.Close()
				l = nil
			}
		} else {
			had = p.pins.dropOther(at.name, inDriver)
		}
	}
	if l == nil {
		if l, err = at.attach(p.pins, had); err != nil {
			return err
		}
	}
	mode := "native"
	if at.generic != nil {
		mode = "generic (" + at.generic.Error() + ")"
		p.slower = append(p.slower, Slower{at.name, at.generic})
	}
	at.link = l
	p.links = append(p.links, l)
	p.modes = append(p.modes, mode+", "+at.sockets)
	return nil
}

// attach attaches the program to an interface that has none of this daemon's, and pins the
// link. Where the driver does not take it, the kernel's stack does.
func (at *attachment) attach(p *pins, had bool) (l link.Link, err error) {
	if at.generic == nil {
		if l, err = attach(at.prog, at.ifindex, link.XDPDriverMode); err != nil {
			at.generic = unfit(err)
		}
	}
	if at.generic != nil {
		l, err = attach(at.prog, at.ifindex, link.XDPGenericMode)
	}
	if err != nil {
		if ownerOf(at.ifindex, nil) == OwnerULVS {
			err = fmt.Errorf("%w (%w)", ErrTaken, err)
		}
		return nil, fmt.Errorf("cannot attach an XDP program to %s: %w", at.name, permitted(err))
	}
	if p != nil {
		if err := p.keepLink(at.name, at.generic == nil, had, l); err != nil {
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
		CPUs: p.cpus, Path: program.Forward(),
	}
	if m != nil {
		s.Sockets, s.Claims = m.FD(), p.sockets.claims.FD()
	}
	if p.serviceArray != nil && p.templateArray != nil && len(p.templateArray.memory) < verifierReach {
		s.Services, s.TemplateTable, s.Rings = p.serviceArray.FD(), p.templateArray.FD(), p.ringArray.FD()
	}
	return s
}

// programName is what bpftool lists the program by.
const programName = "ulvs"

// load loads a program for an interface with these addresses.
func (p *Plane) load(a accel.Acceleration, t program.Ticks, ifindex int, macs []dataplane.MAC,
	m *ebpf.Map) (*ebpf.Program, error) {
	source := p.source(a, t, ifindex, macs, m)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: programName, Type: ebpf.XDP, License: "GPL",
		Instructions: source.Assemble()})
	if err != nil {
		return nil, permitted(err)
	}
	p.progs = append(p.progs, prog)
	return prog, nil
}
