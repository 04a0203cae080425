package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
)

// director is one with a service and two servers, and without a plane's cost.
func director(b *testing.B, connections int, persistence time.Duration) (*ulvs.Director, *dataplanetest.Plane) {
	b.Helper()
	plane, resolver := dataplanetest.New(), dataplanetest.NewResolver()
	d, err := ulvs.New(ulvs.Options{Plane: plane, Resolver: resolver, Connections: connections})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.MustParseAddr("192.168.10.101"), Port: 80}
	if err := d.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr", Persistence: ulvs.Persistence{Timeout: persistence}}); err != nil {
		b.Fatal(err)
	}
	for i := range 2 {
		a := netip.AddrFrom4([4]byte{192, 168, 10, byte(200 + i)})
		resolver.SetReachable(a, 2, dataplane.MAC{2, 0, 0, 0, 0, byte(i)})
		if err := d.AddDestination(k, ulvs.Destination{Addr: a, Port: 80, Weight: 1}); err != nil {
			b.Fatal(err)
		}
	}
	return d, plane
}

const batch = 64

// frames is a batch whose packets are written anew each time.
type frames struct {
	memory [batch][64]byte
	list   [batch]dataplane.Frame
}

// fill makes TCP packets of clients n to n+63, modulo of.
func (f *frames) fill(n, of uint32, flags byte) []dataplane.Frame {
	for i := range f.list {
		p := f.memory[i][:54]
		c := (n + uint32(i)) % of
		p[12], p[13] = 8, 0
		ip := p[14:]
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[2:], 40)
		binary.BigEndian.PutUint32(ip[12:], 10<<24|c>>2)
		binary.BigEndian.PutUint32(ip[16:], 0xc0a80a65)
		ip[10], ip[11] = 0, 0
		var sum uint32
		for j := 0; j < 20; j += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[j:]))
		}
		sum = sum&0xffff + sum>>16
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
		tcp := ip[20:]
		binary.BigEndian.PutUint16(tcp[0:], uint16(1024+c&3))
		binary.BigEndian.PutUint16(tcp[2:], 80)
		tcp[12], tcp[13] = 5<<4, flags
		f.list[i] = dataplane.Frame{Data: p, In: 2}
	}
	return f.list[:]
}

// BenchmarkDecision is packet in, verdict out: ns/op is for one packet. What
// writing the packet costs is measured too, to be subtracted.
func BenchmarkDecision(b *testing.B) {
	b.Run("writing", func(b *testing.B) {
		var f frames
		n := uint32(0)
		for i := 0; b.Loop(); i++ {
			if i%batch == 0 {
				f.fill(n*40503, 1<<20, 0x10)
				n += batch
			}
		}
	})
	for _, flows := range []uint32{1, 1 << 10, 1 << 16, 1 << 20} {
		b.Run(fmt.Sprintf("established/%d", flows), func(b *testing.B) {
			d, plane := director(b, int(flows)+1000, 0)
			var f frames
			for n := uint32(0); n < flows; n += batch {
				d.Handle(plane.Now(), f.fill(n, flows, 0x02))
			}
			b.ReportAllocs()
			n := uint32(0)
			for i := 0; b.Loop(); i++ {
				if i%batch == 0 {
					d.Handle(plane.Now(), f.fill(n*40503, flows, 0x10))
					n += batch
				}
			}
		})
	}
	for name, persistence := range map[string]time.Duration{"new": 0, "new-persistent": 5 * time.Minute} {
		b.Run(name, func(b *testing.B) {
			// The oldest connections expire while new ones come: 64k a minute.
			d, plane := director(b, 1<<20, persistence)
			var f frames
			b.ReportAllocs()
			n := uint32(0)
			for i := 0; b.Loop(); i++ {
				if i%batch == 0 {
					d.Handle(plane.Now(), f.fill(n, 1<<28, 0x02))
					n += batch
					plane.Advance(batch * time.Minute / (1 << 16))
				}
			}
		})
	}
}
