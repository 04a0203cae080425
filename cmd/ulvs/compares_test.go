package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A service of more real servers than programs compare at first has its connections opened by Go
// until they compare more, and evenly all the while.
func TestComparesMore(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	nl := s.director.Netlink()
	eth0, err := nl.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	s.run("--af-xdp", "on")
	const servers = 17
	s.commands("ipvsadm -A -t 192.168.10.101:80 -s wlc")
	for i := range servers {
		at := net.IPv4(192, 168, 10, byte(30+i))
		if err := nl.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: at,
			HardwareAddr: s.servers[0].MAC()}); err != nil {
			t.Fatal(err)
		}
		s.commands(fmt.Sprintf("ipvsadm -a -t 192.168.10.101:80 -r %v -g", at))
	}
	number := uint32(0)
	for begin := time.Now(); s.status()["opened_by_plane"] < servers; {
		number++
		s.send(s.frame(1000+number, 80, "S", number))
		s.got(number, 1)
		if time.Since(begin) > patience {
			t.Fatalf("the program opened %d of %d connections", s.status()["opened_by_plane"], number)
		}
	}
	out, few, more := s.output("ipvsadm -Ln"), number/servers, 0
	for line := range strings.Lines(out) {
		switch f := strings.Fields(line); {
		case len(f) != 6 || f[0] != "->" || f[2] != "Route":
		case f[4] == fmt.Sprint(few+1):
			more++
		case f[4] != fmt.Sprint(few):
			t.Errorf("not even: %s", line)
		}
	}
	if more != int(number%servers) {
		t.Errorf("%d connections are not evenly on %d real servers:\n%s", number, servers, out)
	}
}
