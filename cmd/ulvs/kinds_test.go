package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/internal/lab"
)

// Each kind of interface that this kernel has is served by a program: established connections never come to the
// daemon, which gets first packets that are its to decide, fragments, and ICMP errors. They go on when it is killed,
// and with the next one.
func TestKinds(t *testing.T) {
	t.Parallel()
	const alone = ", the only program there"
	const native = "native, AF_XDP copy on 1 queues; behind it tcx" + alone
	for name, kind := range map[string]struct {
		site func(*testing.T) *kindSite
		auto string // how it is served by the plane auto
	}{
		"bridge":  {overBridge, "tcx (its driver has no XDP)" + alone},
		"macvlan": {overMacvlan, "tcx (its driver has no XDP)" + alone},
		"tap": {func(t *testing.T) *kindSite {
			k, p := overTap(t)
			p.each(k.notes)
			return k
		}, native},
		"tap of pieces": {func(t *testing.T) *kindSite { return newPiecesSite(t).kindSite }, native},
	} {
		for plane, mode := range map[string]string{"tcx": "tcx (it was asked for)" + alone, "auto": kind.auto} {
			t.Run(name+" "+plane, func(t *testing.T) {
				t.Parallel()
				kind.site(t).course(plane, mode)
			})
		}
	}
}

// Ports of services: of one the programs open connections, and of the other the daemon.
const (
	programs = 80
	daemons  = 81
)

func (k *kindSite) course(plane, mode string) {
	const connections, packets = 20, 4
	args := []string{"--interface", k.name, "--plane", plane, "--pin", k.pins}
	daemon := k.start(args...)
	k.watchHanded()
	if got := k.fact(k.name); got != mode {
		k.t.Errorf("%s: %q, not %q", k.name, got, mode)
	}
	for port, scheduler := range map[int]string{programs: "rr", daemons: "lblc"} {
		k.commands(fmt.Sprintf("ipvsadm -A -t 192.168.10.101:%d -s %s", port, scheduler))
		for _, n := range k.behind {
			k.commands(fmt.Sprintf("ipvsadm -a -t 192.168.10.101:%d -r %v -g", port, n.Addr))
		}
	}
	sent := uint32(0)
	at := map[uint16][]int{} // the server of each connection of a port
	// round has a packet of each connection come.
	round := func(flags string, ports ...uint16) {
		k.t.Helper()
		for _, port := range ports {
			for i := range uint32(connections) {
				k.write(k.frame(uint32(port)<<8+i, port, flags, sent+i))
			}
			got := k.got(sent, connections)
			if flags == "S" {
				at[port] = got
			} else if !slices.Equal(got, at[port]) {
				k.t.Errorf("packets of port %d went to servers %v, not %v", port, got, at[port])
			}
			sent += connections
		}
	}
	round("S", programs, daemons)
	round("A", programs, daemons)
	for range packets {
		round("PA", programs, daemons)
	}
	for i := range k.behind {
		n := 0
		for _, server := range at[programs] {
			if server == i {
				n++
			}
		}
		if n < connections/len(k.behind) {
			k.t.Errorf("server %d has %d of %d connections", i, n, connections)
		}
	}
	sent += k.rare(sent)
	k.divided(sent, map[string]int{"first packet": connections, "fragment": 2, "ICMP error": 1})
	if n := k.status()["opened_by_plane"]; n < connections*9/10 {
		k.t.Errorf("the programs opened %d of %d connections", n, connections)
	}
	taken := [2]int{}
	if strings.HasPrefix(mode, "native") { // by the sockets
		taken = [2]int{2, 1}
	}
	if s := k.status(); [2]int{s["fragments_taken"], s["icmp_errors_taken"]} != taken {
		k.t.Errorf("%d fragments and %d ICMP errors came by AF_XDP, not %v", s["fragments_taken"], s["icmp_errors_taken"], taken)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	round("PA", programs, daemons)
	k.start(args...)
	round("PA", programs, daemons)
	round("FA", programs, daemons)
	k.divided(sent, nil)
	if k.more != 0 {
		k.t.Errorf("%d packets arrived twice", k.more)
	}
}

// divided compares what came to the daemon since it was asked last with what may, of so many packets in all: the
// programs forwarded the rest.
func (k *kindSite) divided(sent uint32, want map[string]int) {
	k.t.Helper()
	got := k.kindsOf(k.takeHanded())
	status := k.status()
	if n := status["af_xdp_rx_frames"]; n > 0 { // what else goes to the sockets is counted apart
		fragments, errors := status["fragments_taken"], status["icmp_errors_taken"]
		got["first packet"] += n - fragments - errors
		for name, n := range map[string]int{"fragment": fragments, "ICMP error": errors} {
			if n > 0 {
				got[name] += n
			}
		}
	}
	// Now and then the first packet of a service whose connections the programs open is the daemon's.
	if extra := got["first packet"] - want["first packet"]; extra < 0 || extra > want["first packet"]/10 {
		k.t.Errorf("the daemon got %d first packets, not %d", got["first packet"], want["first packet"])
	}
	for name, n := range got {
		k.daemons += n
		if name != "first packet" && n != want[name] {
			k.t.Errorf("the daemon got %d of what is %s, not %d", n, name, want[name])
		}
	}
	for name := range want {
		if got[name] == 0 {
			k.t.Errorf("the daemon got nothing that is %s", name)
		}
	}
	if n := status["xdp_frames"]; n+k.daemons != int(sent) {
		k.t.Errorf("the programs forwarded %d, and the daemon got %d, of %d packets", n, k.daemons, sent)
	}
}

// rare sends two fragments of a packet, which open a connection, and an ICMP error: it returns how many.
func (k *kindSite) rare(number uint32) uint32 {
	for i, offset := range []uint16{0x2000, 3} {
		f := k.frame(1, programs, "S", number+uint32(i))
		binary.BigEndian.PutUint16(f[14+6:], offset)
		k.write(summed(f))
		k.got(number+uint32(i), 1)
	}
	about := k.frame(programs<<8, programs, "PA", 0)
	copy(about[26:], about[30:34])
	copy(about[30:], net.IPv4(10, 0, programs, 0).To4())
	copy(about[34:], []byte{0, programs, 1000 >> 8, 1000 & 0xff})
	eth := &layers.Ethernet{SrcMAC: k.client.MAC(), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: net.IPv4(10, 99, 0, 1),
		DstIP: net.IPv4(192, 168, 10, 101)}
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip,
		icmp, gopacket.Payload(summed(about)[14:14+28])); err != nil {
		k.t.Fatal(err)
	}
	k.write(buf.Bytes())
	for began := time.Now(); k.status()["icmp_errors"] == 0; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > patience {
			k.t.Fatal("the ICMP error did not come to the daemon")
		}
	}
	return 3
}

// kindsOf says of each frame what it is.
func (k *kindSite) kindsOf(frames [][]byte) map[string]int {
	all := map[string]int{}
	for _, f := range frames {
		p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
		ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		tcp, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		icmp, _ := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		switch {
		case ip != nil && (ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0):
			all["fragment"]++
		case tcp != nil && tcp.SYN && !tcp.ACK:
			all["first packet"]++
		case icmp != nil && icmp.TypeCode.Type() == layers.ICMPv4TypeDestinationUnreachable:
			all["ICMP error"]++
		default:
			all[p.String()]++
		}
	}
	return all
}

// An interface that comes while the daemon runs is served too, if its driver takes no program.
func TestKindComes(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	daemon := s.start("--interface", "eth0", "--interface", "br1", "--plane", "auto", "--pin", s.pins)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br1", HardwareAddr: lab.MAC(0x4003)}}
	if err := s.director.Netlink().LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	daemon.Stderr.(*said).await(t, "the program is in front of an interface that was not there")
	if got := s.fact("br1"); got != "tcx (its driver has no XDP), the only program there" {
		t.Error(got)
	}
}
