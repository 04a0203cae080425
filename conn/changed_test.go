package conn

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/packet"
)

// opened is a table with a connection that was opened at tick 0.
func opened(t *testing.T) (tab *Table, id ID, accepted *int) {
	t.Helper()
	accepted = new(int)
	tab, err := New(Options{Max: 10, Hz: hz, Quarantine: true, Expired: func(ID) {}, Changed: func(id ID) {
		*accepted++
		tab.AcceptState(id)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tab.Close)
	f := flow(2, protoTCP)
	id, _, err = tab.InsertSYN(&f, tab.Hash(&f), 1, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return tab, id, accepted
}

// change does what a program does to a state word.
func change(tab *Table, id ID, to uint32, now uint32) {
	tab.SetStamp(id, now)
	state := tab.State(id)&^stateMask | to | flagChanged
	if to == tcpEstablished {
		state |= flagEstablished
	}
	if tcpActive>>to&1 == 0 {
		state &^= flagActive
	}
	tab.SetState(id, state)
}

// What a program has changed lives on, though its timer was set for the state before, and
// nobody was told.
func TestChangedExpiry(t *testing.T) {
	tab, id, accepted := opened(t)
	change(tab, id, tcpEstablished, hz)
	tab.Advance(62*hz, 1000)
	if tab.Len() != 1 || *accepted != 1 {
		t.Fatalf("%d connections, %d were accepted", tab.Len(), *accepted)
	}
	if got := tab.Expires(id, hz); got != 15*time.Minute {
		t.Errorf("it expires in %v", got)
	}
	change(tab, id, tcpClose, 62*hz)
	if tab.AcceptState(id) {
		t.Error("CLOSE has established it")
	}
	tab.Advance(73*hz, 1000)
	if tab.Len() != 0 {
		t.Error("it outlived CLOSE")
	}
}

// A connection that a program has established makes no room, though Go has not accepted that.
func TestChangedMakesNoRoom(t *testing.T) {
	tab, id, _ := opened(t)
	tab.ListHalfOpen(true, 0)
	change(tab, id, tcpEstablished, hz)
	if at, ok := tab.OldestHalfOpen(100*hz, 0); ok {
		t.Errorf("%d makes room", at)
	}
	if n := tab.HalfOpen(); n != 0 {
		t.Errorf("%d are half-open", n)
	}
	if !tab.AcceptState(id) || tab.HalfOpen() != 0 {
		t.Errorf("it was not established, or twice: %d are half-open", tab.HalfOpen())
	}
}

// A packet that Go has to do with in between takes nothing away of what is to be accepted.
func TestChangedAndChangedAgain(t *testing.T) {
	tab, id, _ := opened(t)
	change(tab, id, tcpEstablished, hz)
	if c := tab.TCP(id, packet.FIN, 2*hz); !c.Deactivated {
		t.Errorf("FIN: %+v", c)
	}
	if !tab.AcceptState(id) {
		t.Error("it was not established")
	}
	if tab.StateName(id) != "FIN_WAIT" || tab.Active(id) || tab.Expires(id, 2*hz) != 2*time.Minute {
		t.Errorf("%s, active %v, expires in %v", tab.StateName(id), tab.Active(id), tab.Expires(id, 2*hz))
	}
}

// A connection that a program has opened and changed is accepted as it is now.
func TestChangedBeforeAccept(t *testing.T) {
	tab, id, _ := opened(t)
	f := flow(4, protoTCP)
	id2, err := tab.Table.Insert((*shtab.Key)(&f), tab.Hash(&f), 1, 0, OpenedTCP)
	if err != nil {
		t.Fatal(err)
	}
	change(tab, id2, tcpEstablished, hz)
	change(tab, id2, tcpFinWait, hz)
	changed, established := tab.Accept(id2, 0, 0)
	if tab.Active(id2) {
		t.Error("FIN_WAIT counts as active")
	}
	if !changed || !established || tab.Changed(id2) || tab.StateName(id2) != "FIN_WAIT" {
		t.Errorf("changed %v, established %v, and still to be accepted: %v; %s", changed, established, tab.Changed(id2), tab.StateName(id2))
	}
	if n := tab.HalfOpen(); n != 1 || tab.Pending(id2) || id == id2 {
		t.Errorf("%d are half-open; pending %v", n, tab.Pending(id2))
	}
}
