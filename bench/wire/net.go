// Package wire carries generated frames over veth pairs and counts what comes
// out: a Generator, that makes packets of many flows inside the kernel, a Sink,
// that counts them by what is in them, and a Net of namespaces between the two.
// Benchmarks of XDP programs use it, and tests that want one under load. It is not
// covered by compatibility.
//
// Frames are made by a test run of an XDP program in live-frame mode
// (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18), some ten million a second. The usual
// set-up is one pair of interfaces:
//
//	generator                         director
//	Generator --redirect--> gen0 ~~~~ dir0 <- the program under test, native
//	                Sink <- gen0 ~~~~ dir0 -- XDP_TX
//
// All of it, the program under test and the sink included, then happens on the
// generator's CPU, in its system call, where nothing is lost: a run in which the
// sink has not seen what it should have is not to be counted. Where a second CPU
// takes a part, veth's rings of 256 frames overflow.
//
// A veth interface takes redirected frames, and frames of its peer's XDP_TX, only
// if it has an XDP program itself (or GRO); without one they vanish.
package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/ulvs/ulvs/internal/lab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotPermitted is wrapped by errors that say that this process may not make
// network namespaces, or not load BPF programs: it has to be root.
var ErrNotPermitted = errors.New("namespaces and BPF programs need root")

// permitted makes ErrNotPermitted of an error that comes to that.
func permitted(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, lab.ErrPrivileges) {
		return fmt.Errorf("%w (%w)", ErrNotPermitted, err)
	}
	return err
}

// Net is a few network namespaces, and veth pairs between them. Make it with
// NewNet. Its methods are for one goroutine at a time.
type Net struct {
	// Queues is how many queues interfaces have that are made from now on, each way: of frames
	// from a CPU, the one of its number. 0 is the kernel's own number, which is 1.
	Queues int

	lab   *lab.Lab
	index int // of the next pair's first interface
}

// End is an interface: one end of a veth pair, or one that was there before
// (Interface). Its methods may be called from any goroutine. The zero value is of no
// use.
type End struct {
	// Space is the network namespace that it is in; nil is the process's own.
	Space *lab.Host
	// Name and Index are the interface's, in its own namespace.
	Name  string
	Index int
	// MAC is its link address.
	MAC net.HardwareAddr
}

// Interface is an interface of the calling thread's network namespace, which has to
// be the process's, by name: a card's, to generate frames on it or to count what it
// receives. It has to be an Ethernet interface that is up.
func Interface(name string) (End, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return End{}, fmt.Errorf("there is no interface %s: %w (ip link lists them)", name, err)
	}
	if len(i.HardwareAddr) != 6 {
		return End{}, fmt.Errorf("interface %s is not Ethernet: give one that is", name)
	}
	if i.Flags&net.FlagUp == 0 {
		return End{}, fmt.Errorf("%s is down: ip link set %s up", name, name)
	}
	return End{Name: name, Index: i.Index, MAC: i.HardwareAddr}, nil
}

// do runs f on a thread of its own in the interface's namespace.
func (e End) do(f func() error) error {
	if e.Space != nil {
		return e.Space.Do(f)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return f()
}

// NewNet makes a net without namespaces. Errors wrap ErrNotPermitted if the process
// may not make any.
func NewNet() (*Net, error) {
	l, err := lab.New(lab.Config{})
	if err != nil {
		return nil, permitted(err)
	}
	return &Net{lab: l, index: 100}, nil
}

// Space adds a network namespace. It has no IPv6, so that its interfaces send
// nothing by themselves.
func (n *Net) Space(name string) (*lab.Host, error) {
	h, err := n.lab.Add(lab.HostConfig{Name: name, Sysctls: [][2]string{
		{"-net.ipv6.conf.default.disable_ipv6", "1"}, {"-net.ipv6.conf.all.disable_ipv6", "1"},
	}})
	if err != nil {
		return nil, permitted(err)
	}
	return h, nil
}

// Join lays a veth pair from one namespace to another, whose interfaces are called
// as given, and brings both ends up.
func (n *Net) Join(a *lab.Host, aName string, b *lab.Host, bName string) (near, far End, err error) {
	// The kernel takes up to a second over a link whose peer has its own index.
	n.index++
	err = b.Do(func() error {
		there, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer there.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = aName, n.index
		attrs.NumTxQueues, attrs.NumRxQueues = n.Queues, n.Queues
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(int(there.Fd())),
			PeerNumTxQueues: uint32(n.Queues), PeerNumRxQueues: uint32(n.Queues)}
		if err := a.Netlink().LinkAdd(veth); err != nil {
			return fmt.Errorf("cannot add the veth pair %s and %s: %w (the kernel needs the module veth)", aName, bName, permitted(err))
		}
		return nil
	})
	if err != nil {
		return near, far, err
	}
	if near, err = up(a, aName); err != nil {
		return near, far, err
	}
	far, err = up(b, bName)
	return near, far, err
}

func up(h *lab.Host, name string) (End, error) {
	l, err := h.Netlink().LinkByName(name)
	if err != nil {
		return End{}, fmt.Errorf("cannot find interface %s: %w", name, err)
	}
	if err := h.Netlink().LinkSetUp(l); err != nil {
		return End{}, fmt.Errorf("cannot set %s up: %w", name, err)
	}
	return End{Space: h, Name: name, Index: l.Attrs().Index, MAC: l.Attrs().HardwareAddr}, nil
}

// Close takes the namespaces and all that is in them away. Generators and sinks
// are to be closed first.
func (n *Net) Close() error { return n.lab.Close() }

// Attach puts a program in front of the interface, in its driver ("native"). The
// caller keeps the link: it ends with Close, and when it is garbage-collected.
func (e End) Attach(p *ebpf.Program) (link.Link, error) { return e.attach(p, SinkOptions{}) }

func (e End) attach(p *ebpf.Program, o SinkOptions) (l link.Link, err error) {
	err = e.do(func() error {
		switch {
		case o.Stack:
			l, err = link.AttachTCX(link.TCXOptions{Program: p, Interface: e.Index, Attach: ebpf.AttachTCXIngress})
		case o.Generic:
			l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: e.Index, Flags: link.XDPGenericMode})
		default:
			l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: e.Index, Flags: link.XDPDriverMode})
		}
		if err != nil {
			return fmt.Errorf("cannot attach an XDP program to %s: %w", e.Name, permitted(err))
		}
		return nil
	})
	return l, err
}

// Program is the XDP program in front of the interface, which somebody else has put
// there. The caller closes it.
func (e End) Program() (*ebpf.Program, error) {
	var id int
	err := e.do(func() error {
		l, err := netlink.LinkByName(e.Name)
		if err == nil && l.Attrs().Xdp != nil {
			id = int(l.Attrs().Xdp.ProgId)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot find interface %s: %w", e.Name, err)
	}
	if id == 0 {
		return nil, fmt.Errorf("there is no XDP program on %s", e.Name)
	}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return nil, fmt.Errorf("cannot look at the XDP program on %s: %w", e.Name, permitted(err))
	}
	return p, nil
}

// Statistics are the interface's own counters: how many frames it received and sent
// since it came up, by its driver.
func (e End) Statistics() (received, sent uint64, err error) {
	err = e.do(func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return fmt.Errorf("cannot find interface %s: %w", e.Name, err)
		}
		if s := l.Attrs().Statistics; s != nil {
			received, sent = s.RxPackets, s.TxPackets
		}
		return nil
	})
	return received, sent, err
}

// Loop is the usual set-up: the generator's interface, where the sink is too, and
// the director's, where the program under test is to be attached.
func (n *Net) Loop() (generator, director End, err error) {
	a, err := n.Space("generator")
	if err != nil {
		return generator, director, err
	}
	b, err := n.Space("director")
	if err != nil {
		return generator, director, err
	}
	return n.Join(a, "gen0", b, "dir0")
}

// GRO switches generic receive offload of the interface on. It has a veth interface
// take frames in a NAPI context, redirected ones too, without an XDP program.
func (e End) GRO() error {
	return e.do(func() error { return permitted(lab.GRO.Set(e.Name, true)) })
}
