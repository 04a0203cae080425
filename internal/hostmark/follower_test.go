package hostmark_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/hostmark"
	"github.com/ulvs/ulvs/internal/lab"
)

// follow runs a follower in a host for the time of the test.
func follow(t *testing.T, h *lab.Host) <-chan hostmark.Rules {
	t.Helper()
	var f *hostmark.Follower
	err := h.Do(func() (err error) {
		f, err = hostmark.New(hostmark.Options{Problem: func(err error) { t.Error(err) }})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rules := make(chan hostmark.Rules, 100)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- f.Run(ctx, func(r hostmark.Rules) error {
			rules <- r
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return rules
}

// patience is how long a test waits for what is due: so long that it is not the machine's
// fault if it does not come.
const patience = time.Minute

// expect waits for rules that look like want.
func expect(t *testing.T, rules <-chan hostmark.Rules, want ...string) {
	t.Helper()
	text := ""
	for _, w := range want {
		text += "= " + w + "\n"
	}
	got := "nothing"
	for limit := time.After(patience); ; {
		select {
		case r := <-rules:
			if got = show(r); got == text {
				return
			}
		case <-limit:
			t.Fatalf("after %v:\n%s\nwant:\n%s", patience, got, text)
		}
	}
}

func TestFollow(t *testing.T) {
	const (
		web    = "4 -A PREROUTING -d 192.168.10.101/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0xa/0xffffffff"
		secure = "4 -A PREROUTING -d 192.168.10.101/32 -p tcp -m tcp --dport 443 -j MARK --set-xmark 0xa/0xffffffff"
		six    = "6 -A PREROUTING -p udp -j MARK --set-xmark 0x1/0xffffffff"
	)
	for _, flavour := range []string{"nft", "legacy"} {
		t.Run(flavour, func(t *testing.T) {
			h := newHost(t, "iptables-"+flavour, "ip6tables-"+flavour)
			rules := follow(t, h)
			expect(t, rules)
			do := func(words string) { run(t, h, strings.Replace(words, "tables", "tables-"+flavour+" -t mangle", 1)) }

			do("iptables -A PREROUTING -p tcp --dport 80 -d 192.168.10.101 -j MARK --set-mark 10")
			expect(t, rules, web)
			do("iptables -I PREROUTING -p tcp --dport 443 -d 192.168.10.101 -j MARK --set-mark 10")
			expect(t, rules, secure, web)
			do("ip6tables -A PREROUTING -p udp -j MARK --set-mark 1")
			expect(t, rules, secure, web, six)
			// The same number and size of rules as before.
			do("iptables -R PREROUTING 2 -p tcp --dport 443 -d 192.168.10.101 -j MARK --set-mark 10")
			expect(t, rules, secure, secure, six)
			do("iptables -D PREROUTING 1")
			expect(t, rules, secure, six)
			do("iptables -F PREROUTING")
			expect(t, rules, six)
			do("ip6tables -F")
			expect(t, rules)
			// What has no part in marks is not told.
			do("iptables -A PREROUTING -p tcp -j TOS --set-tos 8")
			select {
			case r := <-rules:
				t.Errorf("told without a change: %v", r)
			case <-time.After(700 * time.Millisecond):
			}
		})
	}
}

// Elements of sets are followed too.
func TestFollowSet(t *testing.T) {
	h := newHost(t, "nft")
	rules := follow(t, h)
	expect(t, rules)
	run(t, h, "nft add table ip t", "nft add chain ip t pre { type filter hook prerouting priority mangle; }",
		"nft add set ip t vips { type ipv4_addr; }", "nft add rule ip t pre ip daddr @vips meta mark set 1")
	run(t, h, "nft add element ip t vips { 192.0.2.1 }")
	expect(t, rules, "4 -A PREROUTING -d 192.0.2.1/32 -j MARK --set-xmark 0x1/0xffffffff")
	run(t, h, "nft delete element ip t vips { 192.0.2.1 }")
	expect(t, rules)
}

// To look for legacy rules must not make the legacy table.
func TestReadChangesNothing(t *testing.T) {
	h := newHost(t)
	read(t, h)
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
		if err == nil && len(b) > 0 {
			t.Errorf("tables %q", b)
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil // a kernel without iptables-legacy
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCallbackEndsRun(t *testing.T) {
	h := newHost(t)
	var f *hostmark.Follower
	if err := h.Do(func() (err error) {
		f, err = hostmark.New(hostmark.Options{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	enough := errors.New("enough")
	if err := f.Run(t.Context(), func(hostmark.Rules) error { return enough }); err != enough {
		t.Errorf("Run: %v", err)
	}
}

// Without the right to read rules, the error says what is needed.
func TestPrivileges(t *testing.T) {
	h := newHost(t)
	err := h.Do(func() error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&hdr, &none[0]); err != nil {
				done <- err
				return
			}
			_, err := hostmark.Read()
			done <- err
		}()
		return <-done
	})
	if err == nil || !strings.Contains(err.Error(), "reading the firewall's rules needs root, or CAP_NET_ADMIN") {
		t.Errorf("error %v does not say what is needed", err)
	}
}
