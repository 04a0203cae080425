package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseScenario(t *testing.T) {
	sc, err := ParseScenario(`
# a comment
vip 192.168.10.101 fd00:10::101
ipvsadm -A -t 192.168.10.101:80 -s rr
sysctl net.ipv4.vs.expire_nodest_conn=1
show -Ln --stats
sleep 1.5
send tcp 10.1.1.1:1000 > 192.168.10.101:80 SA n=3 ttl=5
send udp [fd01::fffe]:7 > [fd00:10::101]:80 vary=ip n=3
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(sc.VIPs); got != "[192.168.10.101 fd00:10::101]" {
		t.Errorf("VIPs %s", got)
	}
	var got []string
	next := 1
	for _, s := range sc.Steps {
		switch {
		case s.Send != nil:
			for _, p := range s.Send.Packets(next) {
				got = append(got, p.String())
			}
			next += s.Send.Count
		case s.Sleep > 0:
			got = append(got, s.Sleep.String())
		default:
			got = append(got, fmt.Sprint(s.Line, s.Show, s.Command))
		}
	}
	want := []string{
		"4 false [ipvsadm -A -t 192.168.10.101:80 -s rr]",
		"5 false [sysctl net.ipv4.vs.expire_nodest_conn=1]",
		"6 true [ipvsadm -Ln --stats]",
		(1500 * time.Millisecond).String(),
		"#1 tcp 10.1.1.1:1000 > 192.168.10.101:80 SA ttl=5",
		"#2 tcp 10.1.1.1:1001 > 192.168.10.101:80 SA ttl=5",
		"#3 tcp 10.1.1.1:1002 > 192.168.10.101:80 SA ttl=5",
		"#4 udp [fd01::fffe]:7 > [fd00:10::101]:80",
		"#5 udp [fd01::ffff]:7 > [fd00:10::101]:80",
		"#6 udp [fd01::1:0]:7 > [fd00:10::101]:80",
	}
	if d := Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseScenarioErrors(t *testing.T) {
	const ok = "10.1.1.1:1 > 10.1.1.2:80"
	for text, want := range map[string]string{
		"\nfrobnicate 3":                           "line 2: frobnicate: no such statement",
		"sleep":                                    "want one number",
		"sleep x":                                  `"x" is not a number of seconds`,
		"sleep NaN":                                "not a number of seconds",
		"sleep -1":                                 "not a number of seconds",
		"vip":                                      "no address",
		"vip nowhere":                              "nowhere",
		"send tcp":                                 "want PROTO",
		"send gre " + ok:                           `no such protocol "gre"`,
		"send tcp 10.1.1.1 > 10.1.1.2:80 S":        "source:",
		"send tcp 10.1.1.1:1 > 10.1.1.2 S":         "destination:",
		"send tcp 10.1.1.1:1 > [fd00::1]:80 S":     "one family",
		"send udp [fd00::1%1]:1 > [fd00::2]:80":    "zones",
		"send tcp " + ok + " X":                    `no such TCP flag 'X'`,
		"send sctp " + ok:                          "no such SCTP chunk",
		"send udp " + ok + " S":                    "only tcp and sctp have flags",
		"send tcp " + ok + " S k=1":                `no such option "k=1"`,
		"send tcp " + ok + " S n=0":                `n="0": want a number from 1`,
		"send tcp " + ok + " S ttl=256":            "from 1 to 255",
		"send tcp " + ok + " S vary=x":             "want port or ip",
		"send udp 10.1.1.1:65535 > 10.1.1.2:8 n=2": "source ports end at 65535",
		"send udp 255.255.255.255:1 > 10.1.1.2:8 n=2 vary=ip":                   "addresses end before",
		"send tcp " + ok + " S frag=9":                                          "from 2 to 8",
		"send tcp " + ok + " S frag=2":                                          "frag=2 wants size=32",
		"send tcp " + ok + " S order=x":                                         "want reverse",
		"send tcp " + ok + " S bad=luck":                                        "want header or transport",
		"send tcp " + ok + " S call=x":                                          "call= wants udp",
		"send udp " + ok + " call=(":                                            "letters and digits",
		"send tcp " + ok + " S error=x":                                         "want host or mtu or parameter or port or time",
		"send icmp " + ok + " error=port":                                       "error= wants",
		"send udp [::1]:1 > [::2]:2 bad=header":                                 "bad=header wants IPv4",
		strings.Repeat("send udp 10.1.1.1:1 > 10.1.1.2:8 n=60000 vary=ip\n", 2): "more than 65535 packets",
	} {
		_, err := ParseScenario(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: error %v, want %q", text, err, want)
		}
	}
}

// FuzzParseScenario checks that what is accepted can be crafted, and comes
// back from the wire under its own number.
func FuzzParseScenario(f *testing.F) {
	for _, seed := range []string{
		"send tcp 10.1.1.1:1000 > 192.168.10.101:80 S n=3",
		"send sctp [fd01::1]:1 > [fd00:10::101]:80 INIT,DATA size=8 vary=ip n=2",
		"send icmp 10.1.1.1:1 > 192.168.10.101:1 ttl=1",
		"send tcp 10.1.1.1:1 > 192.168.10.101:1 SA error=mtu\nsend sctp [fd01::1]:1 > [fd00:10::101]:80 INIT error=port",
		"send udp 10.1.1.1:1 > 192.168.10.101:1 size=100 frag=2 order=reverse bad=transport\nsend udp [fd01::1]:1 > [fd00:10::101]:1 call=a",
		"vip ::1\nshow -Ln\nsleep 1\n# x\nipvsadm -C",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sc, err := ParseScenario(text)
		if err != nil {
			return
		}
		next := 1
		for _, s := range sc.Steps {
			if s.Send == nil {
				continue
			}
			for _, p := range s.Send.Packets(next)[:min(s.Send.Count, 10)] {
				frames, err := craft(p, mac(1), mac(2))
				if err != nil {
					t.Fatalf("%v: %v", p, err)
				}
				for _, frame := range frames {
					d, err := parseDatagram(frame[etherLen:])
					if err != nil || d.number != p.Number || d.src != p.Src.Addr() || d.dst != p.Dst.Addr() || d.ttl != p.TTL || d.checksumOK == (p.Bad == "header") {
						t.Fatalf("%v came back as %+v, %v", p, d, err)
					}
				}
				if o := newObserver(); o.expect(p, frames) != nil || o.sent[p.Number] == nil {
					t.Fatalf("%v: its frames are not known again", p)
				}
			}
			next += s.Send.Count
		}
	})
}
