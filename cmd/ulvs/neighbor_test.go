package main

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// A real server that is thrown out of the kernel's table of neighbours again and again gets
// its packets all the same, and none of them waits.
func TestServerThrownOut(t *testing.T) {
	for name, args := range loadPlanes {
		t.Run(name, func(t *testing.T) { serverThrownOut(t, args) })
	}
}

func serverThrownOut(t *testing.T, args []string) {
	const packets = 300
	s := newPinSite(t)
	s.start(append([]string{"--interface", "eth0"}, args...)...)
	s.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s rr
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
	`)
	s.send(s.frame(0, 80, "S", 0))
	s.got(0, 1)
	before := s.status()
	gone := &netlink.Neigh{LinkIndex: s.director.Index(), IP: net.IPv4(192, 168, 10, 200)}
	thrownOut := 0
	for i := range uint32(packets) {
		if s.director.Netlink().NeighDel(gone) == nil {
			thrownOut++
		}
		// A connection's packet, and one that opens another.
		s.send(s.frame(0, 80, "A", 1+2*i))
		s.send(s.frame(1+i, 80, "S", 2+2*i))
	}
	s.got(1, 2*packets)
	after := s.status()
	if thrownOut == 0 || after["next_hops_kept"] == 0 {
		t.Errorf("thrown out %d times, kept %d", thrownOut, after["next_hops_kept"])
	}
	if before["parked"] != after["parked"] {
		t.Errorf("%d packets waited", after["parked"]-before["parked"])
	}
}
