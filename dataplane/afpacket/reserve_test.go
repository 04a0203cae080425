package afpacket

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An interface is there again when the last descriptor of its name is closed, also if
// that is a moment after Close.
func TestReserve(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.in(director, func() {
		p, err := New(Options{Interfaces: []string{"eth0"}})
		l.must(err)
		if _, err := New(Options{Interfaces: []string{"eth0"}}); err == nil || !strings.Contains(err.Error(), "another ulvs has interface eth0: stop that one, or give other interfaces") {
			t.Errorf("a second plane: %v", err)
		}
		l.must(p.Close())
		held, err := reserve("eth0", 999)
		l.must(err)
		child, err := unix.FcntlInt(uintptr(held), unix.F_DUPFD_CLOEXEC, 0)
		l.must(err)
		l.must(unix.Close(held))
		time.AfterFunc(100*time.Millisecond, func() { _ = unix.Close(child) })
		again, err := reserve("eth0", 999)
		l.must(err)
		l.must(unix.Close(again))
	})
}
