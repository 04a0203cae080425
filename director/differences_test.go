package director_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
)

// What DIFFERENCES.md names and no other test holds.
func TestDifferences(t *testing.T) {
	t.Run("a mark decides, whatever the destination", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.service(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10}, Scheduler: "rr"}, 1)
		if _, err := b.MarkCommand(false, strings.Fields("-t mangle -A PREROUTING -p tcp -j MARK --set-mark 10")); err != nil {
			t.Fatal(err)
		}
		expect(t, "to somebody else", b.send(pkt{src: "10.1.1.1:1", dst: "203.0.113.9:80", flags: "S"}), "r0")
	})
	t.Run("a deleted service's ports are the host's, where there is no way past the claims", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.plane.SetWithholds(true)
		b.resolver.SetLocal(netip.MustParseAddr(vip), true)
		k := b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
		expect(t, "before", b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}), "r0")
		b.must(b.AddService(ulvs.Service{ServiceKey: udp(53)}))
		b.must(b.DeleteService(k))
		b.must(b.DeleteService(udp(53)))
		if c, _ := b.plane.Claims(); len(c.Services) != 0 {
			t.Errorf("%v is still claimed", c.Services)
		}
		expect(t, "a connection that is left", b.send(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"}), "pass")
	})
	t.Run("timers are exact", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 1)
		b.sends(pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "S"}, pkt{src: "10.1.1.1:1", dst: vip + ":80", flags: "A"})
		b.move(900*time.Second - 4*time.Millisecond)
		if n := len(b.conns()); n != 1 {
			t.Errorf("%d connections before 900 s", n)
		}
		b.move(8 * time.Millisecond)
		if n := len(b.conns()); n != 0 {
			t.Errorf("%d connections after 900 s: the kernel's wheel keeps them up to an eighth longer", n)
		}
	})
	t.Run("RSTs in the host's place are limited", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.plane.SetWithholds(true)
		b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 0)
		sent := 0
		for i := range 1000 {
			if b.send(pkt{src: fmt.Sprintf("10.1.1.1:%d", 1000+i), dst: vip + ":81", flags: "S"}) == "rst" {
				sent++
			}
		}
		if sent != director.DefaultRSTs/10 {
			t.Errorf("%d of 1000 at once", sent)
		}
	})
	t.Run("source port 0 keeps its connection", func(t *testing.T) {
		b := newBed(t, director.Options{})
		b.service(ulvs.Service{ServiceKey: udp(53), Scheduler: "rr"}, 2)
		p := pkt{proto: "udp", src: "10.1.1.1:0", dst: vip + ":53"}
		expect(t, "again and again", b.sends(p, p, p), "r1 r1 r1")
	})
	t.Run("the version line's size", func(t *testing.T) {
		if _, size, err := newBed(t, director.Options{Connections: 100}).Version(); err != nil || size != 4096 {
			t.Errorf("%d, %v", size, err)
		}
	})
}
