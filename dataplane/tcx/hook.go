// Package tcx attaches programs to the ingress of an interface, where the kernel's stack takes
// frames over from any driver, and keeps a private interface for each, by which what the
// program does not decide gets to this process and back to the host.
//
// A frame that the program redirects to the private interface's ingress has its VLAN tag, its size, its
// unfinished checksum and its mark, and the host does not see it: an AF_PACKET ring there takes it,
// and a program behind the ring drops it. What is sent by the private interface with a mark
// comes back to the ingress of the interface of that number.
package tcx

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hook is the ingress of the interfaces of a network namespace. Make it with New; it is safe for
// concurrent use.
type Hook struct {
	nl        *netlink.Handle
	drop, out *ebpf.Program
	filters   bool                                                     // clsact's, also where the kernel has tcx: for tests
	ask       func(name string, request, flags uint32) (uint32, error) // askFlags, or what tests have for it

	mu      sync.Mutex
	devices map[int]*device // by the number of the interface that each is for
	closed  bool
}

// device is a private interface.
type device struct {
	name  string
	index int
	made  bool // it was not there before
	links []Attached
}

// New makes a hook for the calling thread's network namespace. mark is what frames have that come
// back to the host, not 0: the program that Attach attaches leaves them to it. The error says what the kernel has not, which
// is tcx (Linux 6.6), or what may not be done.
func New(mark uint32) (*Hook, error) {
	h := &Hook{devices: map[int]*device{}, ask: askFlags}
	var err error
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	if h.drop, err = load(asm.Instructions{asm.Mov.Imm(asm.R0, tcxDrop), asm.Return()}); err == nil {
		h.out, err = load(toHost(int32(mark)))
	}
	if err == nil {
		err = h.sweep()
	}
	if err != nil {
		h.Close(false)
		return nil, err
	}
	return h, nil
}

// sweep removes the private interfaces of interfaces that are gone.
func (h *Hook) sweep() error {
	all, err := h.nl.LinkList()
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	there := map[string]bool{}
	for _, l := range all {
		there[fmt.Sprint(prefix, l.Attrs().Index)] = true
	}
	for _, l := range all {
		if a := l.Attrs(); a.Alias == alias && !there[a.Name] {
			err = errors.Join(err, h.nl.LinkDel(l))
		}
	}
	return err
}

// Where a frame's mark is (struct __sk_buff), and TCX_DROP (include/uapi/linux/bpf.h).
const (
	skbMark = 8
	tcxDrop = 2
)

// toHost is the program at the way out of a private interface: it drops what has no mark, which the host has
// sent, and gives the rest to the ingress of the interface whose number the mark is.
func toHost(mark int32) asm.Instructions {
	const ingress = 1 // BPF_F_INGRESS
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbMark, asm.Word),
		asm.JEq.Imm(asm.R2, 0, "drop"),
		asm.Mov.Imm32(asm.R3, mark),
		asm.StoreMem(asm.R1, skbMark, asm.R3, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R2),
		asm.Mov.Imm(asm.R2, ingress),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcxDrop).WithSymbol("drop"),
		asm.Return(),
	}
}

func load(list asm.Instructions) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "ulvs_private", Type: ebpf.SchedCLS, License: "GPL", Instructions: list})
	if err != nil {
		return nil, fmt.Errorf("the private interface's program does not load: %w", err)
	}
	return p, nil
}

// Close gives back what New and Private made. With keep the private interfaces stay, for programs that go
// on and the next process. It may be called again.
func (h *Hook) Close(keep bool) { h.close(func(*device) bool { return keep }) }

// Abandon is Close of a process that has not begun: the private interfaces that were there before it stay.
func (h *Hook) Abandon() { h.close(func(d *device) bool { return !d.made }) }

func (h *Hook) close(stays func(*device) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	for _, d := range h.devices {
		d.detach()
		if !stays(d) {
			_ = remove(h.nl, d.name)
		}
	}
	clear(h.devices)
	for _, p := range []*ebpf.Program{h.drop, h.out} {
		if p != nil {
			_ = p.Close()
		}
	}
	h.nl.Close()
}

// Attached is a program at an interface's ingress: a link, or what stands for one.
type Attached = interface {
	// Update puts another program in its place, in one step.
	Update(prog *ebpf.Program) error
	// Pin has it stay when this process ends, as the file says.
	Pin(path string) error
	// Detach takes it away, and Close does so unless it is pinned.
	Detach() error
	Close() error
}

// Attach attaches a program to an interface's ingress, in front of all that are there: by tcx, or where the
// kernel has none by clsact.
func (h *Hook) Attach(prog *ebpf.Program, ifindex int) (Attached, error) {
	return h.attach(prog, ifindex, ebpf.AttachTCXIngress)
}

func (h *Hook) attach(prog *ebpf.Program, ifindex int, to ebpf.AttachType) (Attached, error) {
	if !h.filters {
		l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: to, Anchor: link.Head()})
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, link.ErrNotSupported) {
			return l, err
		}
	}
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if to == ebpf.AttachTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	f, err := h.addFilter(prog, ifindex, parent)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// prefix is how the names of private interfaces begin; the number of the interface that each is for follows.
const prefix = "ulvs"

// alias says whose a private interface is.
const alias = "of ulvs: packets that its daemon decides about"

// noAddress is IN6_ADDR_GEN_MODE_NONE (include/uapi/linux/if_link.h): the host sends nothing of its own.
const noAddress = 1

// MTU is that of private interfaces, by which programs know them: it is nearly the largest that all kinds of
// interfaces take, as what is sent back is no longer than what came, or is segmented.
const MTU = 65533

// Private returns the number of the private interface of an interface, which is made if it is not there:
// one that an earlier process has left is taken. The interface merges no packets in its card any more (LRO): one
// that does not stop that is an error.
func (h *Hook) Private(ifindex int) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.devices[ifindex]; d != nil {
		return d.index, nil
	}
	if err := h.disableLRO(ifindex); err != nil {
		return 0, err
	}
	d := &device{name: fmt.Sprint(prefix, ifindex)}
	err := h.make(d)
	if err == nil {
		err = d.attach(h)
	}
	if err != nil {
		d.detach()
		if d.made {
			_ = remove(h.nl, d.name)
		}
		return 0, fmt.Errorf("no private interface %s for packets that the daemon decides about: %w", d.name, err)
	}
	h.devices[ifindex] = d
	return d.index, nil
}

// attach has frames that come to a private interface end there, and those that leave by it come back.
func (d *device) attach(h *Hook) error {
	in, err := h.attach(h.drop, d.index, ebpf.AttachTCXIngress)
	if err != nil {
		return err
	}
	d.links = append(d.links, in)
	out, err := h.attach(h.out, d.index, ebpf.AttachTCXEgress)
	if err != nil {
		return err
	}
	d.links = append(d.links, out)
	return nil
}

func (d *device) detach() {
	for _, l := range d.links {
		_ = l.Close()
	}
	d.links = nil
}

// Lose removes the private interface of an interface that is gone.
func (h *Hook) Lose(ifindex int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.devices[ifindex]; d != nil && !h.closed {
		d.detach()
		delete(h.devices, ifindex)
		_ = remove(h.nl, d.name) // the next daemon does, if this cannot
	}
}

// Programs returns the programs at an interface's ingress, in the calling thread's network namespace, in the
// order in which they get packets: those of tcx, and then the filters.
func Programs(ifindex int) (ids []ebpf.ProgramID, err error) {
	all, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		for _, one := range all.Programs {
			ids = append(ids, one.ID)
		}
	}
	filters, failed := filtersAt(ifindex)
	if err != nil && (failed != nil || len(filters) == 0) {
		return nil, fmt.Errorf("the programs at the ingress of interface %d: %w", ifindex, err)
	}
	return append(ids, filters...), nil
}

// Place returns which of the programs at an interface's ingress, from 1 on, a program is, and their names in the
// order in which they get packets. One that is not found is 0.
func (h *Hook) Place(ifindex int, prog ebpf.ProgramID) (place int, names []string, err error) {
	ids, err := Programs(ifindex)
	for i, id := range ids {
		if id == prog {
			place = i + 1
		}
		names = append(names, nameOf(id))
	}
	return place, names, err
}

// nameOf returns a program's name, or its number.
func nameOf(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprint("program ", id)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprint("program ", id)
	}
	return info.Name
}

// Leftovers returns the interfaces, by their numbers, that have a private interface, which nobody but a ulvs
// daemon makes: in the calling thread's network namespace. What cannot be read has none.
func Leftovers() (interfaces []int) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer nl.Close()
	all, _ := nl.LinkList()
	for _, l := range all {
		number, err := strconv.Atoi(strings.TrimPrefix(l.Attrs().Name, prefix))
		if err == nil && l.Attrs().Alias == alias {
			interfaces = append(interfaces, number)
		}
	}
	return interfaces
}

// Remove removes the private interfaces of some interfaces, by their numbers, in the calling thread's
// network namespace, and reports whether there were any.
func Remove(interfaces ...int) (found bool, err error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("rtnetlink: %w", err)
	}
	defer nl.Close()
	for _, ifindex := range interfaces {
		name := fmt.Sprint(prefix, ifindex)
		if _, missing := nl.LinkByName(name); missing == nil {
			found, err = true, errors.Join(err, remove(nl, name))
		}
	}
	return found, err
}

func remove(nl *netlink.Handle, name string) error {
	l, err := nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil && l.Attrs().Alias == alias {
		err = nl.LinkDel(l)
	}
	return err
}
