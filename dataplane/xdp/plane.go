// Package xdp is a dataplane.Accelerator: an XDP program that forwards the
// packets of connections, from the connection table that it shares with the
// director, in front of another plane, which gets all other packets.
//
// The program is assembled in Go for the table at hand; program.go and then
// forward.go are to be read from top to bottom, as a packet goes through it. It
// stamps and counts a
// connection, and leaves its state to Go: a packet that would change it is
// passed on. So Go alone writes states, and counts of connections are exact.
package xdp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/shtab"
	"golang.org/x/sys/unix"
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
	// Servers is the greatest number of a real server whose packets the program
	// forwards; 0 means 16383.
	Servers int
}

// ErrNotPermitted is wrapped by errors that say that this process may not use
// BPF: CAP_BPF and CAP_NET_ADMIN are needed, or root.
var ErrNotPermitted = errors.New("this process may not load BPF programs: run as root, or with CAP_BPF and CAP_NET_ADMIN")

// Plane is a dataplane.Accelerator. Make it with New; it is safe for concurrent
// use as dataplane says.
type Plane struct {
	dataplane.Plane // the slow one
	interfaces      []string
	mac             dataplane.MAC

	mu sync.Mutex
	// The arrays, which are closed when nothing refers to them, and what is in
	// two of them.
	conns, serverArray, countArray, settingsArray *array
	servers                                       []server
	counts                                        []count
	settings                                      *settings
	rooms                                         int // of one CPU in counts
	cpus                                          int
	looked                                        bool // the table is an array of slots
	progs                                         []*ebpf.Program
	links                                         []link.Link
	modes                                         []string
}

var _ dataplane.Accelerator = (*Plane)(nil)

// array is a BPF array and its memory.
type array struct {
	*ebpf.Map
	memory []byte
}

// newArray makes an array of one element, which programs use as memory.
func newArray(name string, size int) (*array, error) { return newElements(name, size, 1) }

// newElements makes an array of elements that a program looks up.
func newElements(name string, size, n int) (*array, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: uint32(n), Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("xdp: cannot make an array of %d elements of %d bytes: %w", n, size, permitted(err))
	}
	page := os.Getpagesize()
	length := (size*n + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("xdp: cannot map an array of %d bytes: %w", length, permitted(err))
	}
	return &array{m, memory}, nil
}

func (a *array) close() {
	_ = unix.Munmap(a.memory)
	_ = a.Map.Close()
}

// New makes the arrays. Nothing is attached before Accelerate.
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
	p := &Plane{Plane: o.Slow, interfaces: o.Interfaces, mac: o.MAC, rooms: (o.Servers + 4) / 4 * 4}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("xdp: number of CPUs: %w", err)
	}
	p.cpus = cpus
	servers, err := newArray("ulvs_servers", serverSize*p.rooms)
	if err != nil {
		return nil, err
	}
	counts, err := newArray("ulvs_counts", countSize*p.rooms*cpus)
	if err != nil {
		servers.close()
		return nil, err
	}
	settingsArray, err := newArray("ulvs_settings", settingsSize)
	if err != nil {
		servers.close()
		counts.close()
		return nil, err
	}
	p.serverArray, p.countArray, p.settingsArray = servers, counts, settingsArray
	p.servers = elements[server](servers.memory, p.rooms)
	p.counts = elements[count](counts.memory, p.rooms*cpus)
	p.settings = &elements[settings](settingsArray.memory, 1)[0]
	p.settings.fill()
	return p, nil
}

func permitted(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("xdp: %w (%w)", ErrNotPermitted, err)
	}
	return err
}

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "xdp" }

// Memory implements dataplane.Accelerator.
func (p *Plane) Memory(size int) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.table(size)
	if err != nil {
		return nil, err
	}
	p.conns = a
	return a.memory[:size], nil
}

// verifierReach is how far the kernel's verifier lets a program go into an element
// (BPF_MAX_VAR_OFF, include/linux/bpf_verifier.h).
const verifierReach = 1 << 29

// table is memory for the connection table: one element, or as many as there are
// slots where that is too large, for the verifier or for the kernel.
func (p *Plane) table(size int) (*array, error) {
	const name = "ulvs_conns"
	if size < verifierReach && !p.looked {
		if a, err := newArray(name, size); err == nil || !errors.Is(err, unix.E2BIG) {
			return a, err
		}
	}
	p.looked = true
	return newElements(name, shtab.SlotSize, (size+shtab.SlotSize-1)/shtab.SlotSize)
}

// Accelerate implements dataplane.Accelerator: it attaches a program to each
// interface, in the network namespace of the calling thread.
func (p *Plane) Accelerate(a dataplane.Acceleration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return errors.New("xdp: Memory comes before Accelerate")
	}
	t, err := learnTicks(a.Hz)
	if err != nil {
		return permitted(err)
	}
	for _, name := range p.interfaces {
		if err := p.attach(name, a, t); err != nil {
			p.detach()
			return err
		}
	}
	return nil
}

func (p *Plane) attach(name string, a dataplane.Acceleration, t ticks) error {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("xdp: interface %s: %w", name, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return fmt.Errorf("xdp: interface %s is not an Ethernet interface", name)
	}
	macs := []dataplane.MAC{dataplane.MAC(ifi.HardwareAddr)}
	if p.mac != (dataplane.MAC{}) {
		macs = append(macs, p.mac)
	}
	prog, err := p.load(a, t, ifi.Index, macs)
	if err != nil {
		return fmt.Errorf("xdp: the program for %s does not load: %w", name, err)
	}
	flags, mode := link.XDPGenericMode, "generic"
	why := native(name)
	if why == nil {
		flags, mode = link.XDPDriverMode, "native"
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifi.Index, Flags: flags})
	if err != nil && mode == "native" {
		why, mode = err, "generic"
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifi.Index, Flags: link.XDPGenericMode})
	}
	if err != nil {
		return fmt.Errorf("xdp: cannot attach to %s: %w", name, permitted(err))
	}
	p.links = append(p.links, l)
	if mode = name + " " + mode; why != nil {
		mode += " (" + why.Error() + ")"
	}
	p.modes = append(p.modes, mode)
	return nil
}

// source is the program for an interface with these addresses.
func (p *Plane) source(a dataplane.Acceleration, t ticks, ifindex int, macs []dataplane.MAC) *program {
	return &program{
		Acceleration: a, conns: p.conns.FD(), servers: p.serverArray.FD(), counts: p.countArray.FD(), settings: p.settingsArray.FD(),
		looked: p.looked, ifindex: ifindex, mac: macs, ticks: t, rooms: p.rooms, cpus: p.cpus, path: forward(),
	}
}

// load loads a program for an interface with these addresses.
func (p *Plane) load(a dataplane.Acceleration, t ticks, ifindex int, macs []dataplane.MAC) (*ebpf.Program, error) {
	source := p.source(a, t, ifindex, macs)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "ulvs", Type: ebpf.XDP, License: "GPL", Instructions: source.assemble()})
	if err != nil {
		return nil, permitted(err)
	}
	p.progs = append(p.progs, prog)
	return prog, nil
}

// Mode says for each interface whether the program is in its driver or in front of
// the host's stack, and why there.
func (p *Plane) Mode() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.modes, ", ")
}

// Run implements dataplane.Plane: it runs the slow plane, and takes the programs
// away when that ends.
func (p *Plane) Run(ctx context.Context, h dataplane.Handler) error {
	defer p.Close()
	return p.Plane.Run(ctx, h)
}

// Close takes the programs away; the slow plane is its owner's to close. The
// memory stays for as long as the process: the director's table lies in it.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detach()
	return nil
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

// SetGeneration implements dataplane.Accelerator.
func (p *Plane) SetGeneration(gen uint32) { p.settings.setGeneration(gen) }

// SetServer implements dataplane.Accelerator.
func (p *Plane) SetServer(id uint32, s dataplane.Server) bool {
	if id == 0 || int(id) >= len(p.servers) {
		return false
	}
	p.servers[id].set(s)
	return true
}

// Served implements dataplane.Accelerator.
func (p *Plane) Served(id uint32) (packets, bytes uint64) {
	if int(id) >= p.rooms {
		return 0, 0
	}
	for cpu := range p.cpus {
		n, b := p.counts[cpu*p.rooms+int(id)].load()
		packets, bytes = packets+n, bytes+b
	}
	return packets, bytes
}

// Grace implements dataplane.Accelerator: it waits until every run of the program
// that has begun has ended (membarrier(2): an RCU grace period).
func (p *Plane) Grace() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return fmt.Errorf("xdp: membarrier: %w", errno)
	}
	return nil
}

// Counters implements dataplane.Plane: the slow plane's, and xdp_frames, what the
// program forwarded.
func (p *Plane) Counters() map[string]uint64 {
	all := maps.Clone(p.Plane.Counters())
	var frames uint64
	for i := range p.counts {
		n, _ := p.counts[i].load()
		frames += n
	}
	all["xdp_frames"] = frames
	return all
}
