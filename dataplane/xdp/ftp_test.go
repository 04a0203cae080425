package xdp

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// Connections to FTP's own port are opened by the program, and so are those of a service of every port
// beside it, but for the ports that data connections may have: these packets are Go's, and no others. What
// has a service of its own port is no data connection.
func TestFTPByPacket(t *testing.T) {
	w := newSharing(t)
	every := ulvs.Service{ServiceKey: tcpAt(0), Scheduler: "rr"}
	every.Persistence.Timeout = 300 * time.Second
	ftp := ulvs.Service{ServiceKey: tcpAt(21), Scheduler: "rr"}
	client := byte(0)
	syn := func(to uint16) func() {
		client++
		return func() { w.send(w.syn(to, 10, 3, 0, client)) }
	}
	w.add(ftp)
	w.wants("", syn(21))
	w.wantsNone(syn(5000)) // no service
	w.add(every)
	for _, port := range []uint16{80, 1023, 19, 22, 21} {
		w.wants("", syn(port))
	}
	for _, port := range []uint16{20, 1024, 65535} { // found as FTP's, to whose service without persistence they are not
		w.wantsNone(syn(port))
	}

	ftp.Persistence.Timeout = 200 * time.Second
	w.both("a persistent FTP", func(c ulvs.Control) error { return c.EditService(ftp) })
	for _, port := range []uint16{80, 1023, 21} {
		w.wants("", syn(port))
	}
	for _, port := range []uint16{20, 1024, 65535} {
		w.wants("ftp", syn(port))
	}
	// The data of who has a control connection, which the program has opened, goes to its server, and a control
	// connection follows data that came first.
	control, data := syn(21), syn
	w.wants("", control)
	w.wants("ftp", func() { client -= 1; data(4000)() })
	w.wants("ftp", syn(4001))
	client--
	w.wants("", syn(21))

	w.add(ulvs.Service{ServiceKey: tcpAt(5000), Scheduler: "rr"})
	w.add(ulvs.Service{ServiceKey: tcpAt(20), Scheduler: "rr"})
	w.wants("", syn(5000))
	w.wants("", syn(20))
	w.wants("ftp", syn(5001))
	w.both("no port 20", func(c ulvs.Control) error { return c.DeleteService(tcpAt(20)) })
	w.wants("ftp", syn(20))
	w.both("no FTP", func(c ulvs.Control) error { return c.DeleteService(tcpAt(21)) })
	w.wants("", syn(5001))
	w.wants("", syn(20))
	w.add(ftp)
	w.both("nothing beside FTP", func(c ulvs.Control) error { return c.DeleteService(tcpAt(0)) })
	w.wantsNone(syn(80))
	w.wants("", syn(21))
	w.wants("ftp", syn(6000))
	w.compare()
}

// Rules of marks go before FTP's, and where they look at the client, what FTP's rule may concern is Go's.
func TestFTPBesideMarks(t *testing.T) {
	w := newSharing(t)
	ftp := ulvs.Service{ServiceKey: tcpAt(21), Scheduler: "rr"}
	ftp.Persistence.Timeout = 200 * time.Second
	every := ulvs.Service{ServiceKey: tcpAt(0), Scheduler: "rr"}
	every.Persistence.Timeout = 300 * time.Second
	w.add(ftp)
	w.add(every)
	w.add(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10}, Scheduler: "rr"})
	w.add(ulvs.Service{ServiceKey: tcpAt(7000), Scheduler: "rr"})
	syn := func(to uint16, from ...byte) func() { return func() { w.send(w.syn(to, from...)) } }
	w.rules("-A PREROUTING -d 192.168.10.101 -p tcp --dport 4000 -j MARK --set-mark 10")
	w.wants("", syn(4000))
	w.wants("ftp", syn(4001))
	w.wants("", syn(80))
	w.rules("-F PREROUTING", "-A PREROUTING -d 192.168.10.101 -s 11.0.0.0/8 -p tcp -j MARK --set-mark 10")
	for _, port := range []uint16{21, 80, 7000} {
		w.wants("", syn(port, 11, 0, 0, 1))
		w.wants("", syn(port, 12, 0, 0, 1))
	}
	w.wants("ftp", syn(5000, 11, 0, 0, 1))
	w.wants("ftp", syn(5000, 12, 0, 0, 1))
	byMark := w.opened(ulvs.ServiceKey{Mark: 10})
	if want := (ulvs.Opened{ByPlane: 4, InGo: 1}); byMark != want {
		t.Errorf("by the mark %+v, want %+v", byMark, want)
	}
	w.compare()
}

// Persistent services of FTP's port and of every port share a client's template: a connection may be to a real
// server of the other one, and counts at its own service.
func TestFTPSharesTemplates(t *testing.T) {
	w := newSharing(t)
	for _, port := range []uint16{21, 0} {
		s := ulvs.Service{ServiceKey: tcpAt(port), Scheduler: "rr"}
		s.Persistence.Timeout = 300 * time.Second
		w.add(s)
	}
	conns := func(ftp, every uint64) {
		t.Helper()
		w.move(3 * time.Second) // the estimator's next round
		for port, want := range map[uint16]uint64{21: ftp, 0: every} {
			s, err := w.fast.Service(tcpAt(port))
			w.must(err)
			if got := s.Opened.ByPlane + s.Opened.InGo; s.Stats.Conns != want || got != want {
				t.Errorf("port %d has had %d connections, and %d were opened, not %d", port, s.Stats.Conns, got, want)
			}
		}
		w.compare()
	}
	syn := func(to uint16, client byte) func() { return func() { w.send(w.syn(to, 10, 3, 1, client)) } }
	w.wants("", syn(21, 1))
	w.wants("", syn(80, 1)) // to FTP's server
	conns(1, 1)
	w.wants("", syn(80, 2))
	w.wants("", syn(21, 2)) // to a server of every port
	conns(2, 2)
	w.wants("ftp", syn(5000, 2))
	conns(3, 2)
}
