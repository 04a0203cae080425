package wire

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Classify is tcx for kernels before 6.6 too: it puts a program (SchedCLS) where the stack
// takes frames from the interface, before anything but packet sockets, and returns what
// takes it away.
func (e End) Classify(p *ebpf.Program) (remove func(), err error) {
	queue := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: e.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	nl := e.Space.Netlink()
	if err := nl.QdiscAdd(queue); err != nil {
		return nil, fmt.Errorf("cannot add clsact to %s: %w (the kernel needs the module sch_ingress)", e.Name, permitted(err))
	}
	filter := &netlink.BpfFilter{Fd: p.FD(), Name: "wire_sink", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: e.Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
	}}
	if err := nl.FilterAdd(filter); err != nil {
		_ = nl.QdiscDel(queue)
		return nil, fmt.Errorf("cannot attach a classifier to %s: %w (the kernel needs the module cls_bpf)", e.Name, permitted(err))
	}
	return func() { _ = nl.QdiscDel(queue) }, nil
}
