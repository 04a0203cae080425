package sched

import "testing"

// A program has changed a state, and has not counted that yet, when Go ends the connection: one
// half of the word borrows from the other. The thresholds see the right sum all the time.
func TestSharedBorrows(t *testing.T) {
	for _, conns := range []int{1, 3} {
		var word uint64
		d := &Dest{}
		d.Enlist(1, uint32(conns), 0)
		d.Share(&word)
		for range conns {
			d.Bind(false, true)
		}
		if !d.Overloaded() {
			t.Fatalf("with %d connections it is not overloaded", conns)
		}
		d.Unbind(false, false)
		if active, inactive := d.BothConns(); inactive != 0 || active > uint32(conns) {
			t.Errorf("in between there are %d active and %d inactive connections", active, inactive)
		}
		if d.Overloaded() != ((conns-1)*4 >= conns*3) {
			t.Errorf("with %d of %d connections left: overloaded %v", conns-1, conns, d.Overloaded())
		}
		moved := uint64(InactiveConn)
		word += moved - ActiveConn
		if active, inactive := d.BothConns(); inactive != 0 || active != uint32(conns-1) {
			t.Errorf("in the end there are %d active and %d inactive connections, of %d", active, inactive, conns-1)
		}
	}
}
