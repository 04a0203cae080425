package bench

import (
	"net/netip"
	"testing"

	"github.com/ulvs/ulvs/bench/frames"
	"github.com/ulvs/ulvs/dataplane"
)

const (
	batch = frames.Size
	syn   = frames.SYN
	ack   = frames.ACK
)

func newFrames(tb testing.TB, to netip.AddrPort, flags byte) *frames.Batch {
	tb.Helper()
	f, err := frames.New(to, flags)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// crowd is a sequence of clients. Each has so many connections, one after the other.
type crowd struct {
	next  uint32
	conns uint32 // of each client
}

// fill writes the next 64 new connections.
func (c *crowd) fill(f *frames.Batch) []dataplane.Frame {
	for i := range f.List {
		who := c.next / c.conns
		f.Client(i, 10<<24|who&0xffffff, uint16(1024+(who>>24)*c.conns+c.next%c.conns))
		c.next++
	}
	return f.List[:]
}

// draw writes packets of flows that were drawn from so many, of one connection a
// client.
type draw struct {
	state uint64
	flows uint32
}

func (d *draw) fill(f *frames.Batch) []dataplane.Frame {
	for i := range f.List {
		d.state = d.state*6364136223846793005 + 1442695040888963407
		f.Client(i, 10<<24|uint32(d.state>>32*uint64(d.flows)>>32), 1024)
	}
	return f.List[:]
}
