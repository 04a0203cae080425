package afpacket

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/ulvs/ulvs/dataplane"
)

// What cannot be done is said in one line.
func TestErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.in(director, func() {
		for want, opt := range map[string]Options{
			"name at least one": {},
			"there is no interface nosuch (ip link lists them)":            {Interfaces: []string{"nosuch"}},
			"01:00:00:00:00:00 is a multicast address: give a unicast one": {Interfaces: []string{"eth0"}, MAC: dataplane.MAC{1}},
		} {
			if _, err := New(opt); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		p, err := New(Options{Interfaces: []string{"eth0", "eth0"}})
		l.must(err)
		l.must(p.Close())
		l.must(p.Close())
		if err := p.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "this plane ran already") {
			t.Errorf("a closed plane ran: %v", err)
		}
		if err := p.Claim(both(80)); err == nil || !strings.Contains(err.Error(), "the plane has ended, so it claims nothing") {
			t.Errorf("a closed plane claims: %v", err)
		}
	})
}

// Without privileges the error says which one is missing.
func TestUnprivileged(t *testing.T) {
	if os.Getenv(unprivileged) != "" {
		_, err := New(Options{Interfaces: []string{"lo"}})
		if err == nil || !strings.Contains(err.Error(), "opening a packet socket on lo needs CAP_NET_RAW: run as root or in a user namespace: ") {
			t.Errorf("got %v", err)
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnprivileged$", "-test.v")
	cmd.Env = append(os.Environ(), unprivileged+"=1")
	// A user namespace that does not own the network namespace has no rights
	// there.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS: TestUnprivileged")) {
		t.Errorf("%v\n%s", err, out)
	}
}
