package xdp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/shtab"
)

// TestMadeAdopted has a daemon find a connection whose word names another template than its own, as versions
// before this left some: the client that answers is its own template's.
func TestMadeAdopted(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	a, b := [4]byte{11, 1, 1, 1}, [4]byte{11, 1, 1, 2}
	for _, client := range [][4]byte{b, a} {
		w.mustTake(shopFrame(t, client, 1024, "S"))
	}
	w.later(time.Second)
	// Both have templates now. As of a daemon that renames nothing, a's connection names b's.
	names := func(client [4]byte) []byte {
		m := w.still.conns.memory
		for at := shtab.HeaderSize; at+shtab.SlotSize <= len(m); at += shtab.SlotSize {
			if word := binary.NativeEndian.Uint64(m[at:]); int64(word) < 0 && slices.Equal(m[at+8:at+12], client[:]) {
				return m[at : at+8]
			}
		}
		t.Fatal("no connection")
		return nil
	}
	of := func(at []byte) uint64 { return binary.NativeEndian.Uint64(at) & shtab.MaxValue >> conn.TemplateShift }
	at := names(a)
	binary.NativeEndian.PutUint64(at, binary.NativeEndian.Uint64(at)&^(conn.MaxNamed<<conn.TemplateShift)|of(names(b))<<conn.TemplateShift)
	w.restart()
	w.later(time.Second)
	w.mustTake(shopFrame(t, a, 1024, "A"))
	w.must(w.fast.Conns(func(c ulvs.ConnStatus) bool {
		if c.Template && (c.State == "ASSURED") != (c.Client.Addr() == netip.AddrFrom4(a)) {
			t.Errorf("the template of %v is in state %v; it was %v that answered", c.Client, c.State, netip.AddrFrom4(a))
		}
		return true
	}))
}

// TestStrangeCell has a ring tell of a slot that no table has.
func TestStrangeCell(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	defer noPanic(t)
	at := w.still.ringArray.memory[w.still.cpus*shtab.RingsStride:]
	n := binary.NativeEndian.Uint32(at[shtab.OffCompletionAt:]) % shtab.RingCells
	binary.NativeEndian.PutUint32(at[shtab.OffCompletion+4*n:], shtab.ChangedCell)
	w.fast.Tick(w.still.now)
}

// TestMadePending has a daemon be killed before it has accepted a connection, whose service has other
// templates by then: the one that it was opened by controls it.
func TestMadePending(t *testing.T) {
	w := newShop(t, 5*time.Minute)
	client := [4]byte{11, 1, 1, 1}
	w.mustTake(shopFrame(t, client, 1024, "S"))
	w.hideTold()
	s := shopService(5 * time.Minute)
	s.Persistence.Netmask = netip.MustParseAddr("255.255.255.0")
	w.must(w.fast.EditService(s))
	w.restart()
	w.later(time.Second)
	w.mustTake(shopFrame(t, client, 1024, "A"))
	w.later(7 * time.Minute)
	if n, m := w.counter("connections"), w.counter("templates"); n != 1 || m != 1 {
		t.Errorf("there are %d connections and %d templates", n, m)
	}
}
