package xdp

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// Status names the services of which the program leaves connections to Go, and why.
func TestUnopened(t *testing.T) {
	w := newPair(t, 1)
	fact := func() string {
		t.Helper()
		list, err := w.fast.Facts()
		w.must(err)
		i := slices.IndexFunc(list, func(f ulvs.Fact) bool { return f.Name == "opened in Go" })
		if i < 0 {
			return ""
		}
		return list[i].Value
	}
	add := func(s ulvs.Service, servers int, m ulvs.ForwardMethod) {
		t.Helper()
		w.must(w.fast.AddService(s))
		for i := range servers {
			at := netip.AddrFrom4([4]byte{192, 168, byte(20 + i/200), byte(1 + i%200)})
			w.must(w.fast.AddDestination(s.ServiceKey, ulvs.Destination{Addr: at, Port: s.Port, Weight: 1, Forward: m}))
		}
	}
	tcp := func(port uint16) ulvs.ServiceKey {
		return ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: pairVIP(false), Port: port}
	}
	add(ulvs.Service{ServiceKey: tcp(80), Scheduler: "wlc"}, 2, ulvs.DirectRoute)
	add(ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: time.Minute}}, 2, ulvs.DirectRoute)
	add(ulvs.Service{ServiceKey: tcp(82), Scheduler: "lblc"}, 0, ulvs.DirectRoute) // nobody serves
	sctp := ulvs.ServiceKey{Protocol: ulvs.SCTP, Addr: pairVIP(false), Port: 80}
	add(ulvs.Service{ServiceKey: sctp, Scheduler: "rr"}, 1, ulvs.DirectRoute)
	if got := fact(); got != "" {
		t.Errorf("all is opened by the program, and status says: %s", got)
	}
	add(ulvs.Service{ServiceKey: tcp(83), Scheduler: "lblc"}, 1, ulvs.DirectRoute)
	add(ulvs.Service{ServiceKey: tcp(84), Scheduler: "lblcr", Persistence: ulvs.Persistence{Timeout: time.Minute}}, 2, ulvs.DirectRoute)
	add(ulvs.Service{ServiceKey: tcp(85), Scheduler: "sed"}, 129, ulvs.DirectRoute)
	add(ulvs.Service{ServiceKey: tcp(86), Scheduler: "rr"}, 1, ulvs.Tunnel)
	// In the order of a listing.
	const want = "-t 192.168.10.101:83 (lblc), -t 192.168.10.101:86 (a real server is not for direct routing), " +
		"-t 192.168.10.101:85 (sed of more than 128 real servers), -t 192.168.10.101:84 (lblcr for new clients)"
	if got := fact(); got != want {
		t.Errorf("status says\n%s, want\n%s", got, want)
	}
	add(ulvs.Service{ServiceKey: tcp(21), Scheduler: "lblc"}, 1, ulvs.DirectRoute)
	add(ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: pairVIP(false), Port: 53}, Scheduler: "rr",
		OnePacket: true, Persistence: ulvs.Persistence{Timeout: time.Minute}}, 1, ulvs.DirectRoute)
	sctp.Port = 81
	add(ulvs.Service{ServiceKey: sctp, Scheduler: "lblc"}, 1, ulvs.DirectRoute)
	if got := fact(); got != want+", -u 192.168.10.101:53 (one-packet scheduling by template) and 2 more services" {
		t.Errorf("status says\n%s", got)
	}
}
