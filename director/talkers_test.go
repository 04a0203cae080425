package director_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/shtab"
)

// However small a table is, and however many SYNs come at once, new clients are served.
func TestFloodOfSmallTable(t *testing.T) {
	for _, max := range []int{1, 2, 3, 7, 8, 9, 16, 64, 72, 100} {
		for _, persistence := range []time.Duration{0, 300 * time.Second} {
			t.Run(fmt.Sprint(max, persistence), func(t *testing.T) {
				b := newBed(t, director.Options{Connections: max, Templates: max})
				b.service(persistent(tcp(80), "rr", persistence), 4)
				frames := make([]dataplane.Frame, 64)
				for i := range frames {
					p := pkt{src: fmt.Sprintf("10.77.0.%d:1000", i), dst: vip + ":80", flags: "S"}
					frames[i] = dataplane.Frame{Data: p.frame(t), In: eth0}
				}
				b.plane.Deliver(frames...)
				for i := range 40 {
					client := fmt.Sprintf("10.9.9.%d:1000", i)
					if server := b.establish(client, vip+":80"); server[0] != 'r' {
						t.Fatalf("client %d: %s", i, server)
					}
					b.send(pkt{src: client, dst: vip + ":80", flags: "RA"})
					b.move(11 * time.Second)
				}
			})
		}
	}
}

// openerPlane opens connections by itself, but never does.
type openerPlane struct {
	*dataplanetest.Keeper
	conns, templates []byte
}

func (o *openerPlane) Rings() (conns, templates []byte, cpus int) { return o.conns, o.templates, 4 }
func (o *openerPlane) SetOpening(accel.Opening)                   {}
func (o *openerPlane) SetLimits(uint32, uint32, bool)             {}
func (o *openerPlane) SetLocals(*dataplane.Locals) (bool, bool)   { return true, true }

func openerBed(t *testing.T, o director.Options) *bed {
	b := emptyBed(t)
	size := (shtab.RingsSize(4) + 4095) &^ 4095
	block, free, err := shtab.Memory(2 * size)
	b.must(err)
	t.Cleanup(free)
	b.begin(o, &openerPlane{dataplanetest.NewKeeper(b.plane), block[:size], block[size:]})
	return b
}

// shake has TCP clients come to a port, each 20 SYNs before its ACK, and returns how many were
// not served.
func (b *bed) shake(net string, n int, port string) (lost int) {
	client := func(i int) string { return fmt.Sprintf("10.%s.%d:1000", net, i) }
	for i := range n + 20 {
		if i < n {
			b.send(pkt{src: client(i), dst: vip + port, flags: "S"})
		}
		b.move(4 * time.Millisecond)
		if i < 20 {
			continue
		}
		if b.send(pkt{src: client(i - 20), dst: vip + port, flags: "A"})[0] != 'r' {
			lost++
		}
		b.send(pkt{src: client(i - 20), dst: vip + port, flags: "RA"})
	}
	return lost
}

// UDP clients who talk are not half-open, though that is seen late: where tables are nearly full
// with them, they shut nobody out.
func TestTalkers(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		connections, templates int
		udp                    time.Duration // its service's persistent timeout
		full                   string        // port of the clients who fill a table
	}{
		{"connections", 8000, 8000, 0, ":80"},
		{"templates", 65536, 8000, 300 * time.Second, ":443"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := openerBed(t, director.Options{Connections: tt.connections, Templates: tt.templates})
			b.service(ulvs.Service{ServiceKey: tcp(80), Scheduler: "rr"}, 4)
			b.service(persistent(tcp(443), "rr", 300*time.Second), 4)
			b.service(persistent(udp(443), "rr", tt.udp), 4)
			talk := func() {
				for i := range 1100 {
					b.send(pkt{proto: "udp", src: fmt.Sprintf("10.5.%d.%d:1000", i/250, i%250), dst: vip + ":443"})
				}
			}
			talk()
			talk()
			for i := range 5950 {
				b.establish(fmt.Sprintf("10.1.%d.%d:1000", 1+i/200, i%200), vip+tt.full)
				if i%100 == 0 {
					b.move(4 * time.Millisecond)
				}
			}
			for round := range 3 {
				if lost := b.shake(fmt.Sprintf("2%d.0", round), 180, ":80"); lost > 0 {
					t.Errorf("round %d: %d of 180 new clients are lost", round, lost)
				}
				talk()
			}
		})
	}
}

// Who keeps one template from being known as answered does not have those of the others stay, nor
// connections of other services end.
func TestPinnedTemplate(t *testing.T) {
	for name, pin := range map[string]func(*bed){
		"SYN": func(b *bed) { b.send(pkt{src: "10.66.0.1:1000", dst: vip + ":80", flags: "S"}) },
		"UDP": func(b *bed) { b.send(pkt{proto: "udp", src: "10.66.0.1:1000", dst: vip + ":53"}) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, director.Options{Connections: 4096, Templates: 64})
			b.service(persistent(tcp(80), "rr", 300*time.Second), 4)
			b.service(persistent(udp(53), "rr", 300*time.Second), 4)
			b.service(ulvs.Service{ServiceKey: tcp(81), Scheduler: "rr"}, 4)
			for range 5 {
				pin(b)
			}
			visit := func(client string) {
				t.Helper()
				if server := b.establish(client, vip+":80"); server[0] != 'r' {
					t.Fatalf("%s: %s", client, server)
				}
				b.send(pkt{src: client, dst: vip + ":80", flags: "RA"})
			}
			for i := range 80 {
				visit(fmt.Sprintf("10.1.1.%d:1000", i))
				b.move(300 * time.Millisecond)
			}
			b.move(11 * time.Second)
			for i := range 30 {
				pin(b)
				var fates []string
				for j := range 10 {
					fates = append(fates, b.send(pkt{src: fmt.Sprintf("10.3.%d.%d:1000", i, j), dst: vip + ":81", flags: "S"}))
				}
				visit(fmt.Sprintf("10.1.2.%d:1000", i))
				for j, fate := range fates {
					client := fmt.Sprintf("10.3.%d.%d:1000", i, j)
					expect(t, client, b.send(pkt{src: client, dst: vip + ":81", flags: "A"}), fate)
				}
				b.move(100 * time.Millisecond)
			}
		})
	}
}
