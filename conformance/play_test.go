package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// plain is a director without any IPVS, whose commands only say their words.
type plain struct{}

func (plain) Start(context.Context, *lab.Host) (Director, error) { return plain{}, nil }
func (plain) Close() error                                       { return nil }

func (plain) Command(_ context.Context, words []string) (string, int, error) {
	if words[1] == "quiet" {
		return "", 0, nil
	}
	return strings.Join(words[1:], "\n"), len(words), nil
}

func play(t *testing.T, text string, s Subject, opt Options) ([]string, error) {
	t.Helper()
	sc, err := ParseScenario(text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Play(t.Context(), sc, s, opt)
	if errors.Is(err, lab.ErrPrivileges) {
		t.Skipf("%v: run as root, or allow user namespaces", err)
	}
	return got, err
}

// TestPlay plays against a host without IPVS: the answers are those of this
// machine's own stack. Packets to a server's own address arrive there, and the
// server answers.
func TestPlay(t *testing.T) {
	const text = `
vip 192.168.10.101 fd00:10::101
ipvsadm quiet
ipvsadm one two
show quiet
send tcp 10.1.1.1:1000 > 192.168.10.101:80 S n=2
send tcp 10.1.1.1:1000 > 192.168.10.101:80 FA
send udp 10.1.1.1:1000 > 192.168.10.101:80 vary=ip n=2
send icmp 10.1.1.1:7 > 192.168.10.101:1
send tcp [fd01::1]:1000 > [fd00:10::101]:80 S
send tcp [fd01::1]:1000 > [fd00:10::101]:80 A
send udp [fd01::1]:1000 > [fd00:10::101]:80 size=100
send icmp [fd01::1]:1000 > [fd00:10::101]:80
send tcp 192.168.10.1:1000 > 192.168.10.202:80 S ttl=9
send tcp [fd00:10::1]:1000 > [fd00:10::202]:80 S ttl=9
send tcp 10.1.1.1:1000 > 192.168.10.101:80 RA
send udp 192.168.10.1:1 > 192.168.10.99:1
sleep 0.001
`
	want := []string{
		"$ ipvsadm one two (exit 3)",
		"  one",
		"  two",
		"$ ipvsadm quiet (exit 0)",
		"  ",
		"#1 tcp 10.1.1.1:1000 > 192.168.10.101:80 S -> rst",
		"#2 tcp 10.1.1.1:1001 > 192.168.10.101:80 S -> rst",
		"#3 tcp 10.1.1.1:1000 > 192.168.10.101:80 FA -> rst",
		"#4 udp 10.1.1.1:1000 > 192.168.10.101:80 -> icmp 3/3",
		"#5 udp 10.1.1.2:1000 > 192.168.10.101:80 -> icmp 3/3",
		"#6 icmp 10.1.1.1:7 > 192.168.10.101:1 -> echo-reply",
		"#7 tcp [fd01::1]:1000 > [fd00:10::101]:80 S -> rst",
		"#8 tcp [fd01::1]:1000 > [fd00:10::101]:80 A -> rst",
		"#9 udp [fd01::1]:1000 > [fd00:10::101]:80 size=100 -> icmp6 1/4",
		"#10 icmp [fd01::1]:1000 > [fd00:10::101]:80 -> echo-reply",
		"#11 tcp 192.168.10.1:1000 > 192.168.10.202:80 S ttl=9 -> r2 ttl=9, rst",
		"#12 tcp [fd00:10::1]:1000 > [fd00:10::202]:80 S ttl=9 -> r2 ttl=9, rst",
		"#13 tcp 10.1.1.1:1000 > 192.168.10.101:80 RA -> nothing",
		"#14 udp 192.168.10.1:1 > 192.168.10.99:1 -> unresolved",
	}
	// On a busy machine an answer may come too late, once.
	for n := range 1 + alone {
		got, err := play(t, text, plain{}, Options{Patience: 200 * time.Millisecond})
		if err == nil && Diff(want, got) == "" {
			break
		}
		report := t.Logf
		if n == alone {
			report = t.Errorf
		}
		report("play %d: %v\n%s", n+1, err, Diff(want, got))
	}
}

func TestPlayWithoutVIP(t *testing.T) {
	got, err := play(t, "send udp 10.1.1.1:1 > 192.168.10.101:80", plain{}, Options{NoVIP: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff([]string{"#1 udp 10.1.1.1:1 > 192.168.10.101:80 -> unresolved"}, got); d != "" {
		t.Error(d)
	}
}

// TestCraftSumOfZero goes through the checksums that there are: one of zero would say
// that there is none.
func TestCraftSumOfZero(t *testing.T) {
	for _, c := range []struct {
		text string
		at   int
	}{{"10.1.1.1:1 > 192.168.10.101:80", 20 + 6}, {"[fd01::1]:1 > [fd00:10::101]:80", 40 + 6}} {
		sc, err := ParseScenario("send udp " + c.text)
		if err != nil {
			t.Fatal(err)
		}
		p, ones := sc.Steps[0].Send.Packets(1)[0], 0
		for port := range 1 << 16 {
			p.Src = netip.AddrPortFrom(p.Src.Addr(), uint16(port))
			d, err := craftDatagram(p)
			if err != nil {
				t.Fatal(err)
			}
			switch binary.BigEndian.Uint16(d[c.at:]) {
			case 0:
				t.Fatalf("%v has no checksum", p)
			case 0xffff:
				ones++
			}
		}
		if ones == 0 {
			t.Errorf("%s: no port makes the sum zero", c.text)
		}
	}
}

// TestObserverSeesChanges feeds arrivals that a director has spoilt.
func TestObserverSeesChanges(t *testing.T) {
	sc, err := ParseScenario("send tcp 10.1.1.1:1 > 192.168.10.101:80 S n=5 size=9")
	if err != nil {
		t.Fatal(err)
	}
	o := newObserver()
	frames := make(map[int][]byte)
	for _, p := range sc.Steps[0].Send.Packets(1) {
		crafted, err := craft(p, mac(1), mac(2))
		if err != nil {
			t.Fatal(err)
		}
		f := crafted[0]
		if err := o.expect(p, [][]byte{bytes.Clone(f)}); err != nil {
			t.Fatal(err)
		}
		f[etherLen+8]-- // TTL, and its part of the checksum
		f[etherLen+10]++
		frames[p.Number] = f
	}
	o.atServer("r0", frames[1])
	o.atServer("r3", frames[2])
	o.atServer("r1", frames[2])
	frames[3][etherLen+20+16]++ // TCP checksum
	o.atServer("r0", frames[3])
	frames[4][etherLen+10]-- // IP checksum not brought up to date
	o.atServer("r0", frames[4])
	frames[5][etherLen+15]++ // another client's packet of the same number
	o.atServer("r0", frames[5])
	for number, want := range []string{
		1: "r0 ttl=63", 2: "r1 ttl=63, r3 ttl=63", 3: "r0 ttl=63 altered", 4: "r0 ttl=63 bad-checksum", 5: "nothing",
	} {
		if number > 0 && o.outcome(number) != want {
			t.Errorf("#%d: %s, want %s", number, o.outcome(number), want)
		}
	}
}

// TestObserverReassembles gives fragments to two servers, and some to nobody.
func TestObserverReassembles(t *testing.T) {
	sc, err := ParseScenario("send udp 10.1.1.1:1 > 192.168.10.101:80 frag=3 order=reverse size=1000\n" +
		"send udp [fd01::1]:1 > [fd00:10::101]:80 frag=2 size=99 n=2\nsend udp 10.1.1.1:1 > 192.168.10.101:80 frag=2 size=99")
	if err != nil {
		t.Fatal(err)
	}
	o, next := newObserver(), 1
	for _, s := range sc.Steps {
		for _, p := range s.Send.Packets(next) {
			frames, err := craft(p, mac(1), mac(2))
			if err != nil {
				t.Fatal(err)
			}
			if err := o.expect(p, frames); err != nil {
				t.Fatal(err)
			}
			for i, f := range frames {
				server := "r1"
				switch {
				case p.Number == 3:
					f[etherLen+60]++ // in what the fragments carry
				case p.Number == 4 && i > 0:
					server = "r2"
				}
				o.atServer(server, f)
			}
		}
		next += s.Send.Count
	}
	for number, want := range []string{1: "r1 ttl=64", 2: "r1 ttl=64", 3: "r1 ttl=64 altered", 4: "nothing"} {
		if number > 0 && o.outcome(number) != want {
			t.Errorf("#%d: %s, want %s", number, o.outcome(number), want)
		}
	}
}

// fakeDaemon is a script in place of ulvs.
func fakeDaemon(t *testing.T, run string) Ulvs {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ulvs")
	text := "#!/bin/sh\nif [ \"$1\" != run ]; then echo \"$*\"; test -e \"$ULVS_CONTROL\"; exit $?; fi\n" + run + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return Ulvs{Binary: path}
}

func TestUlvsSubject(t *testing.T) {
	good := fakeDaemon(t, `echo "$*" | grep -q -- "--interface eth0 --plane afpacket --pin none --control $9" || exit 5
trap "exit 0" TERM; sleep 0.05; : > "$9"; while :; do sleep 0.02; done`)
	got, err := play(t, "iptables -t mangle -L\nsysctl a=1", good, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff([]string{"$ iptables -t mangle -L (exit 0)", "  iptables -t mangle -L"}, got); d != "" {
		t.Error(d)
	}
	for script, want := range map[string]string{
		`echo no such plane >&2; exit 1`:                             "no such plane",
		`: > "$9"; echo oops; exit 1`:                                "oops",
		`trap "exit 7" TERM; : > "$9"; while :; do sleep 0.02; done`: "exit status 7",
	} {
		_, err := play(t, "sleep 0.1\nshow -Ln", fakeDaemon(t, script), Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", script, err, want)
		}
	}
}
