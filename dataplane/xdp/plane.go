// Package xdp is a accel.Accelerator: an XDP program that forwards the
// packets of connections, from the connection table that it shares with the
// director, in front of another plane, which gets all other packets.
//
// The program is assembled in Go for the table at hand; program.go, forward.go,
// handover.go and open.go are to be read from top to bottom, as a packet goes through
// it. It stamps and counts a connection, and leaves its state to Go: a packet that would
// change it is handed over. So Go alone moves connections from state to state, and
// counts of connections are exact. It opens connections, in their first state, by what
// the director has picked, and completes them in rings.
package xdp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/accel"
)

// Options configure a Plane. Interfaces and Slow are required.
type Options struct {
	// Interfaces are the names of the interfaces in front of which the program
	// is put.
	Interfaces []string
	// MAC is one more unicast address that is accepted on all of them; the zero
	// value means none.
	MAC dataplane.MAC
	// Slow is the plane that gets what the program does not forward.
	Slow dataplane.Plane
	// Native has the program in the driver also of a veth pair, whose other end then
	// needs a program or GRO, and of a driver that strips VLAN tags: no frame may have
	// one.
	Native bool
	// Servers is the greatest number of a real server whose packets the program
	// forwards; 0 means 16383.
	Servers int
	// Pins, if not "", is a folder in a BPF file system (bpffs) in which the arrays
	// and the attached programs are kept when the process ends, and from which they
	// are adopted; it is made if need be. With Fresh, what is there is removed.
	Pins  string
	Fresh bool
	// Sockets says where AF_XDP sockets take first packets to the services, and Ring
	// how many frames wait in each: a power of two from 32 to 65536; 0 means 2048.
	// BusyPoll, if not 0, has them look for frames for so long at a time.
	Sockets  SocketUse
	Ring     int
	BusyPoll time.Duration
}

// ErrNotPermitted is wrapped by errors that say that this process may not use
// BPF: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed, or root.
var ErrNotPermitted = errors.New("this process may not load BPF programs: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN")

// Plane is a accel.Accelerator. Make it with New; it is safe for concurrent
// use as dataplane says.
type Plane struct {
	dataplane.Plane // the slow one
	interfaces      []string
	mac             dataplane.MAC

	serversPerCPU int // of one CPU in counts
	cpus          int
	pins          *pins // or nil
	inDriver      bool  // Options.Native
	socketUse     SocketUse
	ring          int
	busyPoll      time.Duration

	closed  atomic.Bool
	claimMu sync.Mutex // guards what the services are
	claimed []dataplane.Claim

	mu sync.Mutex
	// From Memory to Release: the arrays, each by what is in it, and what is in three of
	// them.
	arrays                                        []*array
	parts                                         map[string]int // the director's, by name: their places in arrays
	conns, serverArray, countArray, settingsArray *array
	templateArray, serviceArray, ringArray        *array // the first two may be nil: no connections are opened
	servers                                       []server
	counts                                        []count
	settings                                      *settings
	lookupHelper                                  bool         // the table is an array of slots
	out                                           map[int]bool // interfaces that programs send by
	hz                                            uint32
	kept                                          bool // the arrays are an earlier process's
	progs                                         []*ebpf.Program
	links                                         []link.Link
	modes                                         []string
	sockets                                       *sockets // or nil
	socketMaps                                    []*ebpf.Map

	grace grace
}

var _ accel.Opener = (*Plane)(nil)

// New makes a plane. Its arrays are made by Memory, and nothing is attached before
// Accelerate.
func New(o Options) (*Plane, error) {
	if len(o.Interfaces) == 0 || o.Slow == nil {
		return nil, errors.New("xdp: Options need Interfaces and Slow")
	}
	if o.Servers == 0 {
		o.Servers = 1<<14 - 1
	}
	// Before 5.11 BPF memory counts as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, permitted(err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("xdp: number of CPUs: %w", err)
	}
	p := &Plane{Plane: o.Slow, interfaces: o.Interfaces, mac: o.MAC, serversPerCPU: (o.Servers + 4) / 4 * 4,
		cpus: cpus, inDriver: o.Native, socketUse: o.Sockets, ring: o.Ring, busyPoll: o.BusyPoll}
	if o.Pins != "" {
		if p.pins, err = openPins(o.Pins, o.Fresh); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func permitted(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("xdp: %w (%w)", ErrNotPermitted, err)
	}
	return err
}

// Resolver implements dataplane.Resolving: it is the slow plane's, nil if that brings
// none.
func (p *Plane) Resolver() dataplane.Resolver {
	if r, brings := p.Plane.(dataplane.Resolving); brings {
		return r.Resolver()
	}
	return nil
}

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "xdp" }

// Accelerate implements accel.Accelerator: it attaches a program to each
// interface, in the network namespace of the calling thread.
func (p *Plane) Accelerate(a accel.Acceleration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return errors.New("xdp: Memory comes before Accelerate")
	}
	if p.pins != nil {
		p.pins.forgetLinks(p.interfaces)
	}
	t, err := learnTicks(a.Hz)
	if err != nil {
		return permitted(err)
	}
	out := map[int]bool{}
	for _, name := range p.interfaces {
		ifindex, err := p.attach(name, a, t)
		if err != nil {
			p.detach()
			return err
		}
		out[ifindex] = true
	}
	p.out, p.hz = out, a.Hz
	return nil
}

func (p *Plane) attach(name string, a accel.Acceleration, t program.Ticks) (ifindex int, err error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return 0, fmt.Errorf("xdp: interface %s: %w", name, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return 0, fmt.Errorf("xdp: interface %s is not an Ethernet interface", name)
	}
	macs := []dataplane.MAC{dataplane.MAC(ifi.HardwareAddr)}
	if p.mac != (dataplane.MAC{}) {
		macs = append(macs, p.mac)
	}
	var why error
	if !p.inDriver {
		why = native(name)
	}
	m, without := p.openSockets(ifi.Index, why == nil)
	prog, err := p.load(a, t, ifi.Index, macs, m)
	if err != nil {
		return 0, fmt.Errorf("xdp: the program for %s does not load: %w", name, err)
	}
	l, mode, err := p.link(name, ifi.Index, prog, why)
	if err != nil {
		return 0, err
	}
	if m != nil {
		mode += ", AF_XDP " + p.socketMode(ifi.Index)
	} else {
		mode += ", no AF_XDP (" + without.Error() + ")"
	}
	p.links = append(p.links, l)
	p.modes = append(p.modes, mode)
	return ifi.Index, nil
}

// link puts a program in front of an interface: in the place of the one that is
// there, if that was kept. why is why it is not for the driver, or nil.
func (p *Plane) link(name string, ifindex int, prog *ebpf.Program, why error) (l link.Link, mode string, err error) {
	flags, mode := link.XDPGenericMode, "generic"
	if why == nil {
		flags, mode = link.XDPDriverMode, "native"
	} else {
		mode += " (" + why.Error() + ")"
	}
	if p.pins != nil {
		if l := p.pins.link(name, why == nil, ifindex); l != nil {
			err := l.Update(prog)
			if err == nil {
				return l, mode, nil
			}
			p.pins.forget(linkPin(name, why == nil))
			_ = l.Close()
		}
	}
	inDriver := why == nil
	l, err = attach(prog, ifindex, flags)
	if err != nil && inDriver {
		inDriver = false
		mode = "generic (" + err.Error() + ")"
		l, err = attach(prog, ifindex, link.XDPGenericMode)
	}
	if err != nil {
		if taken(ifindex) {
			err = fmt.Errorf("%w (%w)", ErrTaken, err)
		}
		return nil, "", fmt.Errorf("xdp: cannot attach to %s: %w", name, permitted(err))
	}
	if p.pins != nil {
		if err := p.pins.keep(linkPin(name, inDriver), l); err != nil {
			_ = l.Close()
			return nil, "", err
		}
	}
	return l, mode, nil
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

// Run implements dataplane.Plane: it runs the slow plane, and takes the programs
// away when that ends, unless they are kept.
func (p *Plane) Run(ctx context.Context, h dataplane.Handler) error {
	defer p.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Plane.Run(ctx, h) })
	g.Go(func() error { return p.runSockets(ctx, h) })
	return g.Wait()
}

// Close takes the programs away, unless they are kept; the slow plane is its
// owner's to close. The memory, in which the director's table lies, is its to
// release.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave()
	p.detach()
	p.closeSockets()
	p.grace.close()
	if p.pins != nil {
		p.pins.close()
	}
	return nil
}

// leave has programs that stay know at once that no daemon runs.
func (p *Plane) leave() {
	if p.closed.Swap(true) {
		return // another daemon may run by now
	}
	if p.hz != 0 && p.settings != nil {
		p.settings.beat(uint32(monotonicNow()/(time.Second/time.Duration(p.hz))) - (program.HeartbeatTimeout+1)*p.hz)
	}
}

func (p *Plane) detach() {
	for _, l := range p.links {
		_ = l.Close()
	}
	for _, prog := range p.progs {
		_ = prog.Close()
	}
	p.links, p.progs = nil, nil
}

// SetGeneration implements accel.Accelerator.
func (p *Plane) SetGeneration(gen uint32) { p.settings.setGeneration(gen) }

// Heartbeat implements accel.Accelerator.
func (p *Plane) Heartbeat(tick uint32) {
	if !p.closed.Load() {
		p.settings.beat(tick)
	}
}

// SetServer implements accel.Accelerator. A server that is reached by an
// interface without a program is Go's.
func (p *Plane) SetServer(id uint32, s accel.Server) bool {
	if id == 0 || int(id) >= len(p.servers) {
		return false
	}
	if !p.out[s.Ifindex] {
		s = accel.Server{}
	}
	p.servers[id].set(s)
	return true
}

// Served implements accel.Accelerator.
func (p *Plane) Served(id uint32) (packets, bytes uint64) {
	if int(id) >= p.serversPerCPU {
		return 0, 0
	}
	for cpu := range p.cpus {
		n, b := p.counts[cpu*p.serversPerCPU+int(id)].load()
		packets, bytes = packets+n, bytes+b
	}
	return packets, bytes
}
