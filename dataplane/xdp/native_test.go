package xdp

import (
	"strings"
	"testing"

	"github.com/ulvs/ulvs/bench/wire"
)

// In front of a veth pair's end the program is generic, if not asked for otherwise.
func TestNative(t *testing.T) {
	for native, want := range map[bool]string{false: "dir0 generic (it is a veth pair), no AF_XDP", true: "dir0 native, AF_XDP "} {
		b := newBench(t, 16)
		n, err := wire.NewNet()
		b.must(err)
		t.Cleanup(func() { b.must(n.Close()) })
		_, director, err := n.Loop()
		b.must(err)
		b.interfaces, b.inDriver = []string{director.Name}, native
		b.must(director.Space.Do(func() error { return b.Accelerate(b.acceleration()) }))
		if mode := b.Mode(); !strings.HasPrefix(mode, want) {
			t.Errorf("native %v: %q, not %q", native, mode, want)
		}
	}
}
