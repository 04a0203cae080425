package xdp

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/bench/wire"
)

// In the driver of a veth pair's end the program is where that is asked for.
func TestNative(t *testing.T) {
	for native, want := range map[bool]string{
		false: "no XDP program is fit for the driver of dir0: it is a veth pair", true: "dir0 native, AF_XDP ",
	} {
		b := newBench(t, 16)
		n, err := wire.NewNet()
		b.must(err)
		t.Cleanup(func() { b.must(n.Close()) })
		_, director, err := n.Loop()
		b.must(err)
		b.interfaces, b.inDriver = []string{director.Name}, native
		err = director.Space.Do(func() error { return b.Accelerate(b.acceleration()) })
		got := b.Mode()
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("native %v: %q, not %q", native, got, want)
		}
		if list := b.Unfit(); native && (len(list) != 1 || !strings.Contains(list[0].Why.Error(), "needs an XDP program")) {
			t.Errorf("what its other end needs is not said: %v", list)
		}
	}
}

// An interface whose driver has no XDP says so, and not what the kernel answers.
func TestNoDriverXDP(t *testing.T) {
	b := newBench(t, 16)
	n, err := wire.NewNet()
	b.must(err)
	t.Cleanup(func() { b.must(n.Close()) })
	_, director, err := n.Loop()
	b.must(err)
	b.interfaces, b.inDriver = []string{"br0"}, true
	err = director.Space.Do(func() error {
		bridge := netlink.NewLinkAttrs()
		bridge.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: bridge}); err != nil {
			return err
		}
		return b.Accelerate(b.acceleration())
	})
	if err == nil || err.Error() != "cannot attach an XDP program to br0: its driver has no XDP" {
		t.Errorf("%v", err)
	}
}

// An interface is taken in its own network namespace alone: in others, other ones have
// its number.
func TestTaken(t *testing.T) {
	b := newBench(t, 16)
	far := func() wire.End {
		n, err := wire.NewNet()
		b.must(err)
		t.Cleanup(func() { b.must(n.Close()) })
		_, end, err := n.Loop()
		b.must(err)
		return end
	}
	other, director := far(), far()
	if other.Index != director.Index {
		t.Fatalf("the two interfaces have numbers %d and %d", other.Index, director.Index)
	}
	takenAt := func(e wire.End) (yes bool) {
		b.must(e.Space.Do(func() error { yes = ownerOf(attached(e.Index), nil) == OwnerULVS; return nil }))
		return yes
	}
	if takenAt(director) {
		t.Error("it is taken before anybody is there")
	}
	b.interfaces, b.inDriver = []string{director.Name}, true
	b.must(director.Space.Do(func() error { return b.Accelerate(b.acceleration()) }))
	if !takenAt(director) || takenAt(other) {
		t.Errorf("taken: %v, and another namespace's interface %v", takenAt(director), takenAt(other))
	}
}
