// Package xdp is a accel.Accelerator: an XDP program that forwards the
// packets of connections, from the connection table that it shares with the
// director, in front of another plane, which gets all other packets.
//
// The program is assembled in Go for the table at hand; package program's files are to be
// read in the order in which a packet goes through them. It stamps and counts a connection, and
// changes TCP's states (package conn, changed.go). It opens connections by what the director
// has picked. Both it tells in rings, by which Go counts them and sets their timers.
package xdp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
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
	// Ingress, if not nil, has a program at the ingress of each interface, also behind one in its driver,
	// which with Everywhere none has. Slow gets then what that gives to the private interface.
	Ingress    Ingress
	Everywhere bool
	// Servers is the greatest number of a real server whose packets the program
	// forwards; 0 means 131071, or fewer where there are more than 32 CPUs.
	Servers int
	// Pins, if not "", is a folder in a BPF file system (bpffs) in which the arrays
	// and the attached programs are kept when the process ends, and from which they
	// are adopted; it is made if need be. With Fresh, what is there is removed.
	// What is there of a process that had services, and is not for this one, is not
	// touched: the error of Memory wraps accel.ErrKept. Words are kept there too, for
	// messages: how the process was started.
	Pins  string
	Fresh bool
	Words string
	// Sockets says where AF_XDP sockets take first packets to the services, and Ring
	// how many frames wait in each: a power of two from 32 to 65536; 0 means 2048.
	// BusyPoll, if not 0, has them look for frames for so long at a time.
	Sockets  SocketUse
	Ring     int
	BusyPoll time.Duration
	// Logger is told what an operator should know; nil means slog.Default().
	Logger *slog.Logger
}

// Ingress attaches programs to an interface's ingress (package tcx).
type Ingress interface {
	// Attach attaches a program in front of all others there.
	Attach(prog *ebpf.Program, ifindex int) (Attached, error)
	// Private returns the number of the interface by which packets of an interface get to Slow.
	Private(ifindex int) (int, error)
	// Lose says that an interface is gone.
	Lose(ifindex int)
	// Place says which of the programs at an interface's ingress one is, from 1 on, or 0, and their names.
	Place(ifindex int, prog ebpf.ProgramID) (place int, names []string, err error)
	// Close ends that, and removes the private interfaces unless programs are kept that use them.
	Close(keep bool)
}

// Attached is a program in front of an interface: a link, or what stands for one.
type Attached = interface {
	// Update puts another program in its place, in one step.
	Update(prog *ebpf.Program) error
	// Pin has it stay when this process ends, as the file says.
	Pin(path string) error
	// Detach takes it away, and Close does so unless it is pinned.
	Detach() error
	Close() error
}

// HostMark is the mark of frames that come back to the host from Slow, which programs at an ingress leave to
// it.
const HostMark = program.HostMark

// PrivateMTU is the MTU of the interfaces that Ingress.Private gives.
const PrivateMTU = program.PrivateMTU

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
	pins          *pins   // or nil
	inDriver      bool    // Options.Native
	ingress       Ingress // or nil
	everywhere    bool
	socketUse     SocketUse
	ring          int
	busyPoll      time.Duration
	log           *slog.Logger

	closed atomic.Bool
	claims claims
	more   sync.Once // interfaces.compareMore

	mu sync.Mutex
	// From Memory to Release: the arrays, each by what is in it, and what is in three of
	// them.
	arrays                                        []*array
	parts                                         map[string]int // the director's, by name: their places in arrays
	conns, serverArray, countArray, settingsArray *array
	// The first four may be nil: no connections are opened.
	templateArray, serviceArray, sequenceArray, connCountArray, ringArray *array

	crossings

	servers      []server
	counts       []count
	once         []uint64 // packets that were a connection each, or nil
	settings     *settings
	lookupHelper bool // the table is an array of slots
	egress       egress
	hz           uint32
	kept         bool // the arrays are an earlier process's
	attached     []*attachment
	acceleration accel.Acceleration // what the programs were made of
	ticks        program.Ticks
	compared     int               // of a service's real servers, at most
	sockets      *sockets          // or nil
	handler      dataplane.Handler // of Run; nil before and after
	failed       chan error        // why a socket's frames are not taken any more

	grace grace
}

var _ accel.Opener = (*Plane)(nil)

// New makes a plane. Its arrays are made by Memory, and nothing is attached before
// Accelerate.
func New(o Options) (*Plane, error) {
	if len(o.Interfaces) == 0 || o.Slow == nil {
		return nil, errors.New("xdp.Options need Interfaces and Slow")
	}
	// Before 5.11 BPF memory counts as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, Permitted(err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("cannot read the number of CPUs: %w", err)
	}
	if o.Servers == 0 {
		o.Servers = serverRoom(cpus) - 1
	}
	p := &Plane{Plane: o.Slow, interfaces: o.Interfaces, mac: o.MAC, serversPerCPU: (o.Servers + 4) / 4 * 4,
		cpus: cpus, compared: fewCompared, inDriver: o.Native, ingress: o.Ingress,
		everywhere: o.Everywhere && o.Ingress != nil, socketUse: o.Sockets, ring: o.Ring, busyPoll: o.BusyPoll,
		log: o.Logger, failed: make(chan error, 1)}
	p.crossings.lost = interfaces{p}.lost
	p.claims.alone, p.egress.any = p.ingress != nil, p.ingress != nil
	p.claims.fragments = p.Injects()
	if p.log == nil {
		p.log = slog.Default()
	}
	if o.Pins != "" {
		if p.pins, err = openPins(o.Pins, o.Fresh); err != nil {
			return nil, err
		}
		p.pins.words = o.Words
	}
	return p, nil
}

// Permitted has an error that says that something is not permitted wrap ErrNotPermitted too, and returns others
// as they are.
func Permitted(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w (%w)", ErrNotPermitted, err)
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

// Name implements dataplane.Plane: xdp, or tcx where no program is in a driver.
func (p *Plane) Name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ingress == nil || slices.ContainsFunc(p.attached, func(at *attachment) bool { return at.private == 0 }) {
		return "xdp"
	}
	return "tcx"
}

// Run implements dataplane.Plane: it runs the slow plane, and takes the programs
// away when that ends, unless they are kept.
func (p *Plane) Run(ctx context.Context, h dataplane.Handler) error {
	defer p.Close()
	p.mu.Lock()
	p.pins.forgetLinks(p.interfaces) // of an earlier daemon that was given others
	p.mu.Unlock()
	interfaces{p}.follow()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Plane.Run(ctx, h) })
	p.mu.Lock()
	p.handler = h
	for _, at := range p.attached {
		at.carry(h, p.failed)
	}
	p.mu.Unlock()
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.failed:
			return err
		}
	})
	return g.Wait()
}

// Close takes the programs away, unless they are kept; the slow plane is its
// owner's to close. The memory, in which the director's table lies, is its to
// release.
func (p *Plane) Close() error {
	p.mu.Lock()
	p.leave()
	p.handler = nil
	p.mu.Unlock()
	p.detach()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeSockets()
	if p.ingress != nil {
		p.ingress.Close(p.pins != nil)
	}
	p.claims.close()
	p.crossings.close()
	p.grace.close()
	if p.pins != nil {
		p.pins.close()
	}
	return nil
}

// Discard closes a plane that never ran, and takes back what it has put in place. What an
// earlier process had left stays, unless it was replaced already, which is reported.
func (p *Plane) Discard() (replaced bool) {
	p.mu.Lock()
	replaced = p.pins.discard()
	p.ingress = nil // its owner's: another plane may be made of it
	p.mu.Unlock()
	_ = p.Close() // cannot fail
	return replaced
}

// leave has programs that stay know at once that no daemon runs.
func (p *Plane) leave() {
	if p.closed.Swap(true) {
		return // another daemon may run by now
	}
	if p.hz != 0 && p.settings != nil {
		now := uint32(dataplane.Monotonic() / (time.Second / time.Duration(p.hz)))
		p.settings.beat(now - (program.HeartbeatTimeout+1)*p.hz)
	}
}

// detach ends with all interfaces.
func (p *Plane) detach() {
	p.mu.Lock()
	list := p.attached
	p.attached = nil
	p.mu.Unlock()
	for _, at := range list {
		at.close(p)
	}
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
	p.egress.set(id, s, p.servers)
	return true
}

// Served implements accel.Accelerator.
func (p *Plane) Served(id uint32) (n accel.Served) {
	if int(id) >= p.serversPerCPU {
		return n
	}
	for cpu := range p.cpus {
		packets, bytes := p.counts[cpu*p.serversPerCPU+int(id)].load()
		n.Packets, n.Bytes = n.Packets+packets, n.Bytes+bytes
	}
	if int(id) < len(p.once) {
		n.Conns = atomic.LoadUint64(&p.once[id])
	}
	return n
}
