package wire

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What XDP and the classifiers of traffic control call the same.
type sinkKind struct {
	program   ebpf.ProgramType
	data, end int16 // of the packet, in the program's context
	drop      int32
	pass      int32
}

var (
	xdpSink   = sinkKind{ebpf.XDP, 0, 4, 1, 2}        // struct xdp_md, XDP_DROP, XDP_PASS
	plainSink = sinkKind{ebpf.SchedCLS, 76, 80, 2, 0} // struct __sk_buff, TC_ACT_SHOT, TC_ACT_OK
)

// classify puts a program where the stack takes frames from the interface, before
// anything but packet sockets: ingress of traffic control.
func (e End) classify(p *ebpf.Program) (remove func(), err error) {
	queue := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: e.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	nl := e.Space.Netlink()
	if err := nl.QdiscAdd(queue); err != nil {
		return nil, fmt.Errorf("wire: clsact on %s: %w (the kernel needs the module sch_ingress)", e.Name, permitted(err))
	}
	filter := &netlink.BpfFilter{Fd: p.FD(), Name: "wire_sink", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: e.Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
	}}
	if err := nl.FilterAdd(filter); err != nil {
		_ = nl.QdiscDel(queue)
		return nil, fmt.Errorf("wire: a program on %s: %w (the kernel needs the module cls_bpf)", e.Name, permitted(err))
	}
	return func() { _ = nl.QdiscDel(queue) }, nil
}
