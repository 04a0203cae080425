package latency

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/ulvs/ulvs/internal/lab"
)

// contender is something that carries packets to the real server.
type contender struct {
	name string
	vip  netip.Addr
	next *lab.Host // whose link address clients send to
	// at is the daemon that commands and listings go to: the one that carries, or one that has
	// nothing to carry.
	at  *daemon
	xdp bool // whether at carries, with XDP
	// carried is how many packets whoever is to carry them says that it has; nil for nobody.
	carried func() uint64
	// has is how many connections its service has; nil where there is none.
	has func() int
}

// The contenders that others are compared with.
const (
	nobody     = "wire"
	forwarding = "forwarding"
	bareNative = "bare-native"
	bareTCX    = "bare-tcx"
)

// contenders are all of them, at work.
func (s *site) contenders(takesPart func(name string) bool) (list []*contender) {
	s.Helper()
	spare := s.daemon("spare", planes[0])
	s.knows(s.client, virtual(0, 0), s.server)
	list = []*contender{{name: nobody, vip: virtual(0, 0), next: s.server, at: spare}, s.forwarding(spare)}
	list = append(list, s.bare(bareNative, inDriver, spare), s.bare(bareTCX, atIngress, spare))
	for _, p := range planes {
		var d *daemon
		for i, kind := range kinds {
			name := p.name + "/" + kind.name
			if !takesPart(name) {
				continue
			}
			if d == nil {
				d = s.daemon(p.name, p)
			}
			vip := virtual(d.number, i)
			list = append(list, &contender{name: name, vip: vip, next: d.host, at: d, xdp: p.mode != "", carried: d.carried,
				has: func() int { return d.has(vip) }})
		}
	}
	return list
}

// forwarding: the kernel has a route to the virtual address by a real server.
func (s *site) forwarding(spare *daemon) *contender {
	s.Helper()
	h, number := s.director(forwarding)
	vip := virtual(number, 0)
	s.must(h.Sysctl("net.ipv4.ip_forward", "1"))
	s.must(h.AddRoute(lab.Route{Dst: netip.PrefixFrom(vip, 32), Via: serverAddrs[0]}))
	return &contender{name: forwarding, vip: vip, next: h, at: spare,
		carried: func() uint64 { return s.kernel(h, "snmp", "Ip", "ForwDatagrams") }}
}

// kernel is one of the kernel's counters, as nstat(8) has them.
func (s *site) kernel(h *lab.Host, file, group, name string) (n uint64) {
	s.Helper()
	s.must(h.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if words[0] != group+":" {
				continue
			}
			for i, word := range names {
				if word == name {
					_, err := fmt.Sscan(words[i], &n)
					return err
				}
			}
			names = words
		}
		return fmt.Errorf("%s has no %s %s", file, group, name)
	}))
	return n
}

// place is where a program is.
type place struct {
	kind          ebpf.ProgramType
	data, end     int16 // in its context (struct xdp_md, struct __sk_buff; include/uapi/linux/bpf.h)
	forward, pass int32 // what it returns
}

// The places: XDP_TX and XDP_PASS; what bpf_redirect returns, and TCX_NEXT.
var (
	inDriver  = place{ebpf.XDP, 0, 4, 3, 2}
	atIngress = place{ebpf.SchedCLS, 76, 80, 0, -1}
)

// bare: a program writes the real server's link address into each frame, and sends it back out.
func (s *site) bare(name string, at place, spare *daemon) *contender {
	s.Helper()
	h, number := s.director(name)
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	s.must(err)
	s.Cleanup(func() { count.Close() })
	if at == inDriver {
		s.takesXDP(name)
	}
	sends := asm.Instructions{asm.Mov.Imm(asm.R0, at.forward), asm.Return()}
	if at == atIngress {
		sends = asm.Instructions{asm.Mov.Imm(asm.R1, int32(h.Index())), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return()}
	}
	us := h.MAC()
	addresses := append(s.server.MAC(), us...)
	s.must(h.Do(func() error {
		return s.attach(h.Index(), at, slices.Concat(asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, at.data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, at.end, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 12),
			asm.JGT.Reg(asm.R4, asm.R3, "pass"),
			// Not what the bridge sends to everybody, as it does not know yet where whose is.
			asm.LoadMem(asm.R4, asm.R2, 2, asm.Word),
			asm.LoadImm(asm.R5, int64(binary.NativeEndian.Uint32(us[2:])), asm.DWord),
			asm.JNE.Reg(asm.R4, asm.R5, "pass"),
			asm.LoadImm(asm.R4, int64(binary.NativeEndian.Uint64(addresses)), asm.DWord),
			asm.StoreMem(asm.R2, 0, asm.R4, asm.DWord),
			asm.LoadImm(asm.R4, int64(binary.NativeEndian.Uint32(addresses[8:])), asm.DWord),
			asm.StoreMem(asm.R2, 8, asm.R4, asm.Word),
			asm.LoadMapValue(asm.R1, count.FD(), 0),
			asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord),
			asm.Add.Imm(asm.R2, 1),
			asm.StoreMem(asm.R1, 0, asm.R2, asm.DWord),
		}, sends, asm.Instructions{
			asm.Mov.Imm(asm.R0, at.pass).WithSymbol("pass"),
			asm.Return(),
		}))
	}))
	return &contender{name: name, vip: virtual(number, 0), next: h, at: spare, carried: func() (n uint64) {
		s.must(count.Lookup(uint32(0), &n))
		return n
	}}
}

// attach puts a program in front of an interface of the calling thread's namespace.
func (s *site) attach(index int, at place, list asm.Instructions) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: at.kind, License: "GPL", Instructions: list})
	if err != nil {
		return err
	}
	s.Cleanup(func() { p.Close() })
	var l link.Link
	if at == inDriver {
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: link.XDPDriverMode})
	} else {
		l, err = link.AttachTCX(link.TCXOptions{Program: p, Interface: index, Attach: ebpf.AttachTCXIngress})
	}
	if err == nil {
		s.Cleanup(func() { l.Close() })
	}
	return err
}

// takesXDP has the bridge take what XDP sends on a host's interface: the other end of a veth
// pair does that if it has a program itself (drivers/net/veth.c, veth_xdp_flush).
func (s *site) takesXDP(name string) {
	s.Helper()
	s.must(s.lab.Do(func() error {
		at, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		return s.attach(at.Index, inDriver, asm.Instructions{asm.Mov.Imm(asm.R0, inDriver.pass), asm.Return()})
	}))
}
