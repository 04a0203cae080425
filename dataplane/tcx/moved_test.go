package tcx

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ulvs/ulvs/internal/lab"
)

// An interface that goes to another network namespace has no program of ours there once its link is given back,
// and gets one anew when it has come back. (A filter of clsact's the kernel takes away itself.)
func TestMoved(t *testing.T) { both(t, moved) }

func moved(b *bed) {
	t := b.T
	elsewhere, err := b.lab.Add(lab.HostConfig{Name: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	h := b.hook()
	defer h.Close(false)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "ours", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	attach := func() (l Attached) {
		b.do(func() (err error) {
			l, err = h.Attach(p, b.eth0)
			return err
		})
		return l
	}
	programs := func(at *lab.Host, index int) (n int) {
		_ = at.Do(func() error {
			ids, _ := Programs(index)
			n = len(ids)
			return nil
		})
		return n
	}
	// move has it go from one host to another, and returns its number there.
	move := func(from, to *lab.Host) int {
		l, err := from.Netlink().LinkByName("moved0")
		if err == nil {
			err = from.Netlink().LinkSetNsFd(l, to.Namespace())
		}
		if err == nil {
			l, err = to.Netlink().LinkByName("moved0")
		}
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Index
	}
	eth0, err := b.host.Netlink().LinkByName("eth0")
	if err == nil {
		err = b.host.Netlink().LinkSetDown(eth0) // before Linux 6.2 none that is up has its name changed
	}
	if err == nil {
		err = b.host.Netlink().LinkSetName(eth0, "moved0")
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l := attach()
		there := move(b.host, elsewhere)
		if n := programs(elsewhere, there); n != map[bool]int{false: 1, true: 0}[b.filters] {
			t.Errorf("%d programs went along", n)
		}
		_ = l.Detach()
		if n := programs(elsewhere, there); n != 0 {
			t.Errorf("%d programs are there", n)
		}
		_ = l.Close()
		b.eth0 = move(elsewhere, b.host)
		again := attach()
		if n := programs(b.host, b.eth0); n != 1 {
			t.Errorf("%d programs are at an interface that is back", n)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}
