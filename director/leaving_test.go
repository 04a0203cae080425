package director_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/director"
)

// withholding is a bed whose host has the virtual addresses, and gets what is not claimed.
func withholding(t *testing.T) *bed {
	b := newBed(t, director.Options{})
	b.plane.SetWithholds(true)
	b.plane.SetInjects(true)
	b.resolver.SetLocal(netip.MustParseAddr(vip), true)
	return b
}

// claims reports whether a protocol and port of the virtual address are claimed.
func (b *bed) claims(proto uint8, port uint16) bool {
	c, _ := b.plane.Claims()
	return slices.ContainsFunc(c.Services, func(c dataplane.Claim) bool {
		return c.Addr == netip.MustParseAddr(vip) && c.Proto == proto && c.Port == port
	})
}

// A deleted service stays claimed as long as it has connections and its family another
// service; the host gets what has no connection.
func TestDeletedService(t *testing.T) {
	b := withholding(t)
	b.must(b.AddService(ulvs.Service{ServiceKey: udp(53)}))
	k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
	idle := b.service(ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr"}, 1)
	syn, ack := pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}, pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"}
	other := pkt{src: "10.1.1.1:2", dst: vip + ":80", flags: "S"}
	expect(t, "before", b.sends(syn, ack), "r0 r0")
	b.must(b.DeleteService(idle))
	if b.claims(6, 81) {
		t.Error("a service without connections is still claimed")
	}
	b.must(b.DeleteService(k))
	if !b.claims(6, 80) {
		t.Error("a service with a connection is not claimed any more")
	}
	expect(t, "its connection, another one, another port", b.sends(ack, other, pkt{src: "10.1.1.1:1", dst: vip + ":82", flags: "S"}),
		"drop host pass")
	b.must(b.DeleteService(udp(53)))
	if b.claims(6, 80) {
		t.Error("it is claimed though no service is left")
	}
	expect(t, "without services", b.sends(other, ack), "pass pass")
	expect(t, "an error about its connection", b.deliver(icmpError(t, pkt{src: ack.dst, dst: ack.src, flags: "A"}, false)), "pass")
	b.must(b.AddService(ulvs.Service{ServiceKey: udp(54)}))
	if !b.claims(6, 80) {
		t.Error("it is not claimed though there is a service again")
	}
	expect(t, "with one again", b.sends(ack, other), "drop host")
	b.move(16 * time.Minute)
	if b.claims(6, 80) {
		t.Error("it is claimed though its connection has ended")
	}
	expect(t, "in the end", b.sends(ack, other), "pass pass")
}

// The same by mark.
func TestDeletedMark(t *testing.T) {
	b := withholding(t)
	b.must(b.AddService(ulvs.Service{ServiceKey: udp(53)}))
	k := b.service(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 7}, Scheduler: "rr"}, 1)
	if _, err := b.MarkCommand(false, []string{"-t", "mangle", "-A", "PREROUTING", "-d", vip, "-p", "tcp", "-j", "MARK",
		"--set-mark", "7"}); err != nil {
		t.Fatal(err)
	}
	syn, ack := pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}, pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"}
	expect(t, "before", b.send(syn), "r0")
	b.must(b.DeleteService(k))
	c, _ := b.plane.Claims()
	expect(t, "marks", fmt.Sprint(c.Marks4), "[7]")
	expect(t, "its connection, and another", b.sends(ack, pkt{src: "10.1.1.1:2", dst: vip + ":80", flags: "S"}), "drop host")
	b.move(2 * time.Minute)
	c, _ = b.plane.Claims()
	expect(t, "marks in the end", fmt.Sprint(c.Marks4), "[]")
}

// Many that are deleted at once, each with a connection.
func TestManyDeletedServices(t *testing.T) {
	b := withholding(t)
	b.must(b.AddService(ulvs.Service{ServiceKey: udp(53)}))
	for port := range uint16(500) {
		k := b.service(ulvs.Service{ServiceKey: tcp(1000 + port), Scheduler: "rr"}, 1)
		b.send(pkt{src: "10.1.1.1:1", dst: fmt.Sprintf("%s:%d", vip, k.Port), flags: "S"})
	}
	b.must(b.Clear())
	b.must(b.AddService(ulvs.Service{ServiceKey: udp(53)}))
	b.move(50 * time.Millisecond) // with so many, claims wait for a tick
	c, _ := b.plane.Claims()
	if len(c.Services) != 501 {
		t.Errorf("%d claims", len(c.Services))
	}
	b.move(2 * time.Minute)
	if c, _ := b.plane.Claims(); len(c.Services) != 1 {
		t.Errorf("%d claims are left", len(c.Services))
	}
}
