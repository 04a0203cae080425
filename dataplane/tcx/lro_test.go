package tcx

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// cards stand for drivers, by the names of their interfaces: no interface of this kernel's may merge by itself.
type cards map[string]*card

type card struct {
	flags uint32
	fixed bool  // what it has stays
	fails error // it does not let itself be set
}

func (c cards) ask(name string, request, flags uint32) (uint32, error) {
	one := c[name]
	switch {
	case one == nil:
		return 0, unix.EOPNOTSUPP
	case request == setFlags && one.fails != nil:
		return 0, one.fails
	case request == setFlags && !one.fixed:
		one.flags = flags
	}
	return one.flags, nil
}

// An interface that is taken has no card below it that merges packets, or it is not taken.
func TestLRO(t *testing.T) {
	const other = 1 << 8
	b := newBed(t)
	nl := b.host.Netlink()
	for _, err := range []error{
		nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", Index: 7001}}),
		nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port0", MasterIndex: 7001}, PeerName: "port1"}),
		nl.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{Name: "mv0",
			HardwareAddr: lab.MAC(7), ParentIndex: b.eth0, Index: 7002}}),
	} {
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skipf("the kernel lacks a kind of interface: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h := b.hook()
	defer h.Close(false)
	private := func(index int, c cards) (err error) {
		h.ask = c.ask
		h.Lose(index)
		b.do(func() error {
			_, err = h.Private(index)
			return nil
		})
		return err
	}
	for _, tt := range []struct {
		name  string
		index int
		on    string // who merges
		off   bool   // is that switched off?
	}{
		{"its own", b.eth0, "eth0", true},
		{"a macvlan's lower interface", 7002, "eth0", true},
		{"a bridge's port", 7001, "port0", true},
		{"a port's other end", 7001, "port1", false},
		{"another interface", b.eth0, "port0", false},
	} {
		c := cards{tt.on: {flags: lro | other}, "mv0": {}}
		if err := private(tt.index, c); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := c[tt.on].flags; got != map[bool]uint32{true: other, false: lro | other}[tt.off] {
			t.Errorf("%s: the flags are %#x", tt.name, got)
		}
	}
	for name, c := range map[string]*card{"fixed": {flags: lro, fixed: true}, "refused": {flags: lro, fails: unix.EINVAL}} {
		err := private(7002, cards{"eth0": c})
		if err == nil || !strings.Contains(err.Error(), "interface eth0 merges packets in its card") ||
			!strings.Contains(err.Error(), map[string]string{"fixed": "its driver keeps that on", "refused": "invalid argument"}[name]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A real one says that it does not, and may be told so.
	b.do(func() error {
		flags, err := askFlags("eth0", getFlags, 0)
		if err == nil && flags&lro == 0 {
			_, err = askFlags("eth0", setFlags, flags)
		}
		if err != nil || flags&lro != 0 {
			t.Errorf("of a real interface: %#x, %v", flags, err)
		}
		return nil
	})
}
