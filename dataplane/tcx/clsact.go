package tcx

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Before Linux 6.6 a program is at an ingress as a filter of clsact's: the kernel keeps it until
// somebody deletes it, also when this process ends. (tc filter show dev eth0 ingress lists it.)

// filter is a program's place among an interface's filters, and stands for it as a link does.
type filter struct {
	h     *Hook
	attrs netlink.FilterAttrs
	name  string

	mu   sync.Mutex
	prog *ebpf.Program // its own copy; nil: it was deleted
	pin  string        // the file that keeps the program's number; "": none, and it goes when it is closed
}

// handle is the number of our filter among those of its priority.
const handle = 1

// addFilter puts a program among an interface's filters, in the place of one of the same name, or with the
// first priority that nobody has. The caller need not keep it.
func (h *Hook) addFilter(prog *ebpf.Program, ifindex int, parent uint32) (*filter, error) {
	own, err := prog.Clone()
	if err != nil {
		return nil, err
	}
	info, err := own.Info()
	if err == nil {
		err = h.addClsact(ifindex)
	}
	var there []netlink.Filter
	if err == nil {
		there, err = h.nl.FilterList(numbered(ifindex), parent)
	}
	if err != nil {
		_ = own.Close()
		return nil, fmt.Errorf("the filters of interface %d (clsact): %w", ifindex, err)
	}
	f := &filter{h: h, name: info.Name, prog: own, attrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: parent,
		Handle: handle, Priority: priorityAmong(there, info.Name), Protocol: unix.ETH_P_ALL}}
	if err := f.place(own); err != nil {
		_ = own.Close()
		return nil, err
	}
	return f, nil
}

// priorityAmong returns the priority of a program of the name, or the first that is free.
func priorityAmong(there []netlink.Filter, name string) uint16 {
	taken := map[uint16]bool{}
	for _, one := range there {
		if b, is := one.(*netlink.BpfFilter); is && b.Name == name {
			return b.Attrs().Priority
		}
		taken[one.Attrs().Priority] = true
	}
	free := uint16(1)
	for taken[free] {
		free++
	}
	return free
}

// addClsact has an interface have filters at its ingress and at its way out.
func (h *Hook) addClsact(ifindex int) error {
	err := h.nl.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex,
		Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// place has the filter be a program, in one step where there was another.
func (f *filter) place(prog *ebpf.Program) error {
	of := &netlink.BpfFilter{FilterAttrs: f.attrs, Fd: prog.FD(), Name: f.name, DirectAction: true}
	err := f.h.nl.FilterReplace(of)
	if err != nil {
		return fmt.Errorf("a filter of interface %d (clsact): %w", f.attrs.LinkIndex, err)
	}
	return nil
}

// Update puts another program in its place.
func (f *filter) Update(prog *ebpf.Program) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	own, err := prog.Clone()
	if err != nil {
		return err
	}
	if err := f.place(own); err != nil {
		_ = own.Close()
		return err
	}
	if f.prog != nil {
		_ = f.prog.Close()
	}
	if f.prog = own; f.pin == "" {
		return nil
	}
	_ = os.Remove(f.pin)
	return own.Pin(f.pin)
}

// Pin has it stay when it is closed, and a file say which program it is.
func (f *filter) Pin(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.prog.Pin(path); err != nil {
		return err
	}
	f.pin = path
	return nil
}

// Detach deletes it.
func (f *filter) Detach() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.prog == nil {
		return nil
	}
	_ = f.prog.Close()
	f.prog = nil
	return f.h.nl.FilterDel(&netlink.BpfFilter{FilterAttrs: f.attrs, Name: f.name})
}

// Close deletes it, unless it is pinned.
func (f *filter) Close() error {
	f.mu.Lock()
	pinned := f.pin != ""
	f.mu.Unlock()
	if !pinned {
		return f.Detach()
	}
	return nil
}

// filtersAt returns the programs that are filters at an interface's ingress, in order.
func filtersAt(ifindex int) (ids []ebpf.ProgramID, err error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	defer nl.Close()
	list, err := nl.FilterList(numbered(ifindex), netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b netlink.Filter) int {
		return int(a.Attrs().Priority) - int(b.Attrs().Priority)
	})
	for _, one := range list {
		if b, is := one.(*netlink.BpfFilter); is {
			ids = append(ids, ebpf.ProgramID(b.Id))
		}
	}
	return ids, nil
}

// Unfilter deletes the filters of a name at the ingress of interfaces, by their numbers, in the calling
// thread's network namespace, and reports whether there were any.
func Unfilter(name string, interfaces ...int) (found bool, err error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("rtnetlink: %w", err)
	}
	defer nl.Close()
	for _, ifindex := range interfaces {
		list, _ := nl.FilterList(numbered(ifindex), netlink.HANDLE_MIN_INGRESS)
		for _, one := range list {
			if b, is := one.(*netlink.BpfFilter); is && b.Name == name {
				found, err = true, errors.Join(err, nl.FilterDel(b))
			}
		}
	}
	return found, err
}

// numbered is an interface by its number alone, which is all that is asked for with filters.
func numbered(ifindex int) netlink.Link {
	return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
}
