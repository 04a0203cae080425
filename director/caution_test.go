package director_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
)

// What is accepted and does nothing here is logged.
func TestLoggedAsUseless(t *testing.T) {
	var log bytes.Buffer
	b := newBed(t, director.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b.must(b.SetSysctl("backup_only", 1))
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 0)
	d := dest(k, 0, 1)
	d.Forward = ulvs.Masquerade
	b.must(b.AddDestination(k, d))
	for _, want := range []string{
		`level=WARN msg="this sysctl changes nothing in direct routing" name=net.ipv4.vs.backup_only value=1`,
		`level=WARN msg="packets for this real server are dropped: its forwarding method is not implemented" server=192.168.10.200:80 method=Masq`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("not %s in\n%s", want, &log)
		}
	}
}

// A real server that is the director itself, on a plane that withholds its packets from the
// host and has no way past that: each command is warned, and the log says it once.
func TestLocalServerWarned(t *testing.T) {
	var log bytes.Buffer
	b := newBed(t, director.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	own := ulvs.Destination{Addr: netip.MustParseAddr("192.168.10.100"), Port: 80, Weight: 1}
	b.resolver.SetLocal(own.Addr, true)
	b.plane.SetWithholds(true)
	b.plane.SetInjects(true)
	b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 0)
	b.service(ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr"}, 0)
	if text := b.Caution(own); text != "" {
		t.Errorf("there is a way to the host: %s", text)
	}
	b.plane.SetInjects(false)
	for _, port := range []uint16{80, 81} {
		own.Port = port
		b.must(b.AddDestination(tcp(port), own))
		if text := b.Caution(own); !strings.Contains(text, own.AddrPort().String()+" are dropped: it is this host") {
			t.Errorf("port %d: %q", port, text)
		}
	}
	expect(t, "its packets", b.send(pkt{src: "10.1.1.1:1000", dst: vip + ":80", flags: "S"}), "drop")
	other := own
	other.Addr = netip.MustParseAddr("192.168.10.200")
	if text := b.Caution(other); text != "" {
		t.Errorf("of another host: %s", text)
	}
	if n := strings.Count(log.String(), "it is this host"); n != 1 {
		t.Errorf("logged %d times\n%s", n, &log)
	}
}
