package main

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// With --follow-marks, mark rules that the host's own iptables has are followed, those
// that come later too; what cannot be followed is said, and ulvs changes none of them.
func TestFollowMarks(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("needs iptables: apt-get install iptables")
	}
	s := newSite(t)
	host := func(line string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		words := strings.Fields(line)
		if out, err := s.director.Command(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	host("iptables -t mangle -A PREROUTING -p tcp --dport 80 -d 192.168.10.101 -j MARK --set-mark 10")
	d := s.start("--interface", "eth0", "--follow-marks")
	rules := func() string {
		out, code := s.ulvs("", "iptables", "-t", "mangle", "-S", "PREROUTING")
		if code != 0 {
			t.Fatal(out)
		}
		return out
	}
	const first = "-P PREROUTING ACCEPT\n-A PREROUTING -d 192.168.10.101/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0xa/0xffffffff\n"
	if got := rules(); got != first {
		t.Fatalf("at the start:\n%s", got)
	}
	host("iptables -t mangle -A PREROUTING -p tcp --dport 443 -d 192.168.10.101 -j MARK --set-mark 10")
	host("iptables -t mangle -A PREROUTING -p tcp --dport 444 -m limit --limit 1/s -j MARK --set-mark 11")
	const second = "-A PREROUTING -d 192.168.10.101/32 -p tcp -m tcp --dport 443 -j MARK --set-xmark 0xa/0xffffffff\n"
	for start := time.Now(); rules() != first+second; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("after %v:\n%s", patience, rules())
		}
	}
	if out, code := s.ulvs("", "ulvs", "iptables", "--unfollowed"); code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "444") {
		t.Errorf("unfollowed, exit %d:\n%s", code, out)
	}
	log := d.Stderr.(*said)
	log.await(t, `level=INFO msg="the host's mark rules" followed=1 unfollowed=0`)
	log.await(t, `level=WARN msg="a rule of the host cannot be followed: packets that only it marks get no mark" rule=`)
	for _, words := range []string{"-N LVS", "-X", "-vE A B", "--new-chain=LVS"} {
		if out, code := s.ulvs("", append([]string{"iptables", "-t", "mangle"}, strings.Fields(words)...)...); code != 2 {
			t.Errorf("%s: exit %d: %s", words, code, out)
		}
	}
	host("iptables -t mangle -N LVS")
	host("iptables -t mangle -A LVS -j MARK --set-mark 12")
	host("iptables -t mangle -A INPUT -i eth0 -p udp -j LVS")
	const input = "-P INPUT ACCEPT\n-A INPUT -i eth0 -p udp -j LVS\n"
	listed := func() string {
		out, _ := s.ulvs("", "iptables", "-t", "mangle", "-S", "INPUT")
		return out
	}
	for start := time.Now(); listed() != input; time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("after 10 seconds:\n%s", listed())
		}
	}
	if out, code := s.ulvs("", "iptables", "-t", "mangle", "-F", "PREROUTING"); code != 2 || !strings.Contains(out, "the mark rules are the host's (--follow-marks): change them with its own iptables") {
		t.Errorf("exit %d: %s", code, out)
	}
	// Rules of an interface count from when ulvs has one of the name.
	host("iptables -t mangle -A PREROUTING -i front0 -m limit --limit 1/s -j MARK --set-mark 13")
	host("ip link set eth0 down")
	host("ip link set eth0 name front0")
	log.await(t, "-i front0")
}
