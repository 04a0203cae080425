package afpacket

import (
	"net"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// bypass looks out for packets to services that come to the host by another MAC address than
// the interface's, which no plane takes: that of a macvlan or a bridge over it. Where the host
// has a service's address, it answers them. It listens at such interfaces, with a filter, until
// the first such packet; it belongs to the goroutine of Plane.watch.
type bypass struct {
	generation uint64       // of the links
	addrs      []netip.Addr // of services, which the host has
	ears       map[int]*ear // by the interface's number
	said       map[ear]bool // of which it was said, without fd
}

// ear is a socket on an interface over one of the plane's.
type ear struct {
	name string
	mac  dataplane.MAC
	fd   int
}

// most bounds for how many addresses of a family packets are looked for, and of how many
// interfaces it is known that it was said.
const most = 64

// look does what is due, each second.
func (b *bypass) look(p *Plane) {
	addrs := p.claims.local(p.opt.Resolver)
	if generation := p.links.Generation(); generation != b.generation || !slices.Equal(addrs, b.addrs) {
		b.generation, b.addrs = generation, addrs
		b.listen(p)
	}
	buf := make([]byte, 64)
	for index, e := range b.ears {
		n, _, err := unix.Recvfrom(e.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue // there was none, or the interface is gone, which is heard
		}
		if len(b.said) == most {
			clear(b.said) // it is said again
		}
		b.said[ear{name: e.name, mac: e.mac}] = true
		p.log.Warn("packets to a service come to the host by another MAC address than the interface's, which ulvs does not take: "+
			"the host answers them; give --mac and that address, or --interface and the one that has it",
			"interface", e.name, "address", net.HardwareAddr(e.mac[:]).String(), "service", destinationOf(buf[:n]))
		b.close(index)
	}
}

// listen opens the sockets that are wanted now, and closes others.
func (b *bypass) listen(p *Plane) {
	for index := range b.ears {
		b.close(index)
	}
	if len(b.addrs) == 0 {
		return
	}
	if b.ears == nil {
		b.ears, b.said = map[int]*ear{}, map[ear]bool{}
	}
	links := p.links.Links()
	known := []dataplane.MAC{p.opt.MAC}
	for _, l := range links {
		known = append(known, l.MAC)
	}
	_ = p.ns.do(func() error {
		above, err := hostlink.Above(links)
		for _, l := range above {
			if slices.Contains(known, l.MAC) || b.said[ear{name: l.Name, mac: l.MAC}] {
				continue
			}
			if fd, err := openEar(l.Index, b.addrs); err == nil {
				b.ears[l.Index] = &ear{l.Name, l.MAC, fd}
			}
		}
		return err // it is tried again after the next change
	})
}

func (b *bypass) close(index int) {
	_ = unix.Close(b.ears[index].fd)
	delete(b.ears, index)
}

func (b *bypass) closeAll() {
	for index := range b.ears {
		b.close(index)
	}
}

// local are the claimed services' addresses that the host has itself, the first most of each
// family.
func (c *claims) local(r dataplane.Resolver) (list []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var n [2]int
	for _, s := range c.last.Services {
		family := 0
		if s.Addr.Is6() {
			family = 1
		}
		if n[family] < most && r.Local(s.Addr) && !slices.Contains(list, s.Addr) {
			list = append(list, s.Addr)
			n[family]++
		}
	}
	return list
}

// openEar opens a socket on an interface that gets one packet to one of these addresses.
func openEar(ifindex int, addrs []netip.Addr) (int, error) {
	filter, err := bpf.Assemble(earFilter(addrs))
	if err != nil {
		return -1, err
	}
	code := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		code[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) // the least that there is
	}
	if err == nil {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: all})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// earFilter lets in the beginning of what is TCP, UDP or SCTP to the host and these addresses.
func earFilter(addrs []netip.Addr) []bpf.Instruction {
	var v4, v6 []bpf.Instruction
	transport := func(at uint32) []bpf.Instruction {
		return []bpf.Instruction{
			bpf.LoadAbsolute{Off: at, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 3},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_SCTP, SkipTrue: 1},
			bpf.RetConstant{},
		}
	}
	v4 = append(transport(macLen+9), bpf.LoadAbsolute{Off: macLen + 16, Size: 4})
	v6 = transport(macLen + 6)
	for _, a := range addrs {
		words := a.AsSlice()
		if a.Is4() {
			v4 = append(v4, bpf.JumpIf{Cond: bpf.JumpEqual, Val: word(words), SkipFalse: 1}, bpf.RetConstant{Val: 64})
			continue
		}
		for i := range uint32(4) {
			v6 = append(v6, bpf.LoadAbsolute{Off: macLen + 24 + 4*i, Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: word(words[4*i:]), SkipFalse: uint8(7 - 2*i)})
		}
		v6 = append(v6, bpf.RetConstant{Val: 64})
	}
	v4, v6 = append(v4, bpf.RetConstant{}), append(v6, bpf.RetConstant{})
	return slices.Concat([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 1},
		bpf.RetConstant{},
		bpf.LoadAbsolute{Off: macLen - 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
		bpf.RetConstant{},
		bpf.Jump{Skip: uint32(len(v6))},
	}, v6, v4)
}

func word(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// destinationOf is where a packet goes that the filter has let in.
func destinationOf(frame []byte) string {
	at, size := macLen+16, 4
	if len(frame) > macLen && frame[macLen]>>4 == 6 {
		at, size = macLen+24, 16
	}
	if len(frame) < at+size {
		return "?"
	}
	a, _ := netip.AddrFromSlice(frame[at : at+size])
	return a.String()
}
