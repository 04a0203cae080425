package tcx

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/internal/lab"
)

const testMark = 0x1234

// bed is a host with an interface, eth0.
type bed struct {
	*testing.T
	lab     *lab.Lab
	host    *lab.Host
	eth0    int
	filters bool
}

func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h, err := l.Add(lab.HostConfig{Name: "d", Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.10.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{T: t, lab: l, host: h}
	b.do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			b.eth0 = ifi.Index
		}
		return err
	})
	return b
}

func (b *bed) do(f func() error) {
	b.Helper()
	if err := b.host.Do(f); err != nil {
		b.Fatal(err)
	}
}

// both runs a test by tcx and by clsact's filters.
func both(t *testing.T, f func(b *bed)) {
	for name, filters := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.filters = filters
			f(b)
		})
	}
}

// hook makes one.
func (b *bed) hook() (h *Hook) {
	b.Helper()
	b.do(func() (err error) {
		h, err = New(testMark)
		return err
	})
	h.filters = b.filters
	return h
}

func (b *bed) private(h *Hook) (index int) {
	b.Helper()
	b.do(func() (err error) {
		index, err = h.Private(b.eth0)
		return err
	})
	return index
}

// there reports whether a private interface is there.
func (b *bed) there(name string) (found bool) {
	b.do(func() error {
		_, err := net.InterfaceByName(name)
		found = err == nil
		return nil
	})
	return found
}

// What cannot be made leaves nothing behind.
func TestPrivateFails(t *testing.T) {
	both(t, func(b *bed) {
		h := b.hook()
		_ = h.out.Close() // it cannot be attached
		b.do(func() error {
			if at, err := h.Private(b.eth0); err == nil {
				b.Errorf("it is %d", at)
			}
			return nil
		})
		if b.there(fmt.Sprint("ulvs", b.eth0)) {
			b.Error("it is there")
		}
		h.Close(false)
	})
}

// A host without IPv6 has private interfaces too: this one has none on interfaces whose MTU is too small for it.
func TestPrivateWithoutIPv6(t *testing.T) {
	b := newBed(t)
	h := b.hook()
	at := b.private(h)
	h.Close(true)
	name := fmt.Sprint("ulvs", b.eth0)
	for _, one := range []string{name, name + "-"} { // of a pair the other end, which nobody gives another MTU
		if l, err := b.host.Netlink().LinkByName(one); err == nil {
			if err := b.host.Netlink().LinkSetMTU(l, 1000); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := b.hook()
	if again := b.private(next); again != at {
		t.Errorf("it is %d, not %d", again, at)
	}
	next.Close(false)
}

// A private interface stays for the next process where programs stay, and goes otherwise.
func TestPrivate(t *testing.T) { both(t, private) }

func private(b *bed) {
	t := b.T
	h := b.hook()
	at, name := b.private(h), fmt.Sprint("ulvs", b.eth0)
	if again := b.private(h); again != at || at == 0 {
		t.Errorf("it is %d, and %d", at, again)
	}
	h.Close(true)
	h.Close(true)
	refused := b.hook()
	b.private(refused)
	if refused.Abandon(); !b.there(name) {
		t.Error("a process that has not begun takes away what was there")
	}
	next := b.hook()
	if again := b.private(next); again != at {
		t.Errorf("the next process has %d, not %d", again, at)
	}
	next.Close(false)
	if b.there(name) {
		t.Error("it is there after the end")
	}
	failed := b.hook()
	b.private(failed)
	if failed.Abandon(); b.there(name) {
		t.Error("a process that has not begun leaves what it has made")
	}
	last := b.hook()
	b.private(last)
	last.Lose(b.eth0)
	if b.there(name) {
		t.Error("it outlives its interface")
	}
	b.private(last)
	last.Close(true)
	b.do(func() error {
		if found, err := Remove(b.eth0); !found || err != nil {
			t.Errorf("removed: %v, %v", found, err)
		}
		if found, err := Remove(b.eth0); found || err != nil {
			t.Errorf("removed again: %v, %v", found, err)
		}
		return nil
	})
}

// What was left of an interface that is gone goes with the next start, and what is somebody else's stays.
func TestPrivateOfOthers(t *testing.T) {
	b := newBed(t)
	b.do(func() error {
		for name, kept := range map[string]string{"ulvs9999": alias, "ulvs9998": "mine"} {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-"}
			if err := netlink.LinkAdd(l); err != nil {
				return err
			}
			if err := netlink.LinkSetAlias(l, kept); err != nil {
				return err
			}
		}
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("ulvs", b.eth0)}, PeerName: "other"})
	})
	h := b.hook()
	defer h.Close(false)
	if b.there("ulvs9999") || !b.there("ulvs9998") {
		t.Error("not what was left has gone")
	}
	b.do(func() error {
		_, err := h.Private(b.eth0)
		if err == nil || !strings.Contains(err.Error(), "no private interface ulvs") || !strings.Contains(err.Error(), "an interface of that name is somebody else's") {
			t.Errorf("of a name that is taken: %v", err)
		}
		return nil
	})
}

// Of those at an ingress that are of tcx ours is the first, and what is there is said in order. A filter comes
// behind those that were there; it is one, whoever puts it there again, and goes when it is closed, if no file stands
// for it.
func TestPlace(t *testing.T) { both(t, place) }

func place(b *bed) {
	t := b.T
	h := b.hook()
	defer h.Close(false)
	attach := func(name string) (l Attached, id ebpf.ProgramID) {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		b.do(func() error {
			l, err = h.Attach(p, b.eth0)
			return err
		})
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ = info.ID()
		return l, id
	}
	names := func(id ebpf.ProgramID) (place int, names string) {
		b.do(func() error {
			at, list, err := h.Place(b.eth0, id)
			place, names = at, strings.Join(list, " ")
			return err
		})
		return place, names
	}
	other, _ := attach("other")
	defer other.Close()
	ours, id := attach("ours")
	want, wantNames := 1, "ours other"
	if b.filters {
		want, wantNames = 2, "other ours"
	}
	if at, list := names(id); at != want || list != wantNames {
		t.Errorf("place %d of %q", at, list)
	}
	if b.filters {
		again, next := attach("ours")
		if at, list := names(next); at != want || list != wantNames {
			t.Errorf("in its own place: %d of %q", at, list)
		}
		ours = again
	}
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	if at, list := names(id); at != 0 || list != "other" {
		t.Errorf("closed: place %d of %q", at, list)
	}
	b.do(func() error {
		if _, _, err := h.Place(1<<30, id); err == nil || !strings.Contains(err.Error(), "the programs at the ingress of interface") {
			t.Errorf("of no interface: %v", err)
		}
		return nil
	})
}
