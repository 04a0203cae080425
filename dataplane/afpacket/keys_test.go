package afpacket

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// crowd is services of n other addresses, of which nobody asks.
func crowd(n int) (c dataplane.Claims) {
	for i := range n {
		c.Services = append(c.Services,
			dataplane.Claim{Addr: netip.AddrFrom4([4]byte{10, 99, byte(i / 250), byte(i % 250)}), Proto: unix.IPPROTO_TCP, Port: 80},
			dataplane.Claim{Addr: netip.AddrFrom16([16]byte{0xfd, 99, 14: byte(i / 250), 15: byte(i % 250)}), Proto: unix.IPPROTO_UDP, Port: 53},
			dataplane.Claim{Addr: netip.AddrFrom4([4]byte{10, 98, byte(i / 250), byte(i % 250)}), Proto: unix.IPPROTO_TCP})
	}
	return c
}

func plus(c, more dataplane.Claims) dataplane.Claims {
	c.Services = slices.Concat(c.Services, more.Services)
	return c
}

// Where there are many services, one more or less changes the sets and leaves the rules; and
// what is claimed is what would be if all had been written anew.
func TestClaimMany(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vipOn(director)
	h := &toHop{}
	p, stop := l.start(director, h, Options{})
	rules := func() string {
		return strings.Join(regexp.MustCompile(`handle \d+`).FindAllString(l.nft(director, "-a list chain netdev ulvs-eth0 ingress"), -1), " ")
	}
	claim := func(p *Plane, what string, c dataplane.Claims, want map[int]bool) {
		t.Helper()
		if err := p.Claim(c); err != nil {
			t.Fatalf("claiming %s: %v", what, err)
		}
		for port, refused := range want {
			for _, addr := range []string{vip4, vip6} {
				if got := l.refused(addr, port, refused); got != refused {
					t.Errorf("%s claimed, %s port %d: refused by the host: %v", what, addr, port, got)
				}
			}
		}
	}
	claim(p, "a crowd", crowd(300), map[int]bool{80: true})
	first := rules()
	claim(p, "one more", plus(crowd(300), both(80)), map[int]bool{80: false, 81: true})
	claim(p, "another one", plus(crowd(299), both(81)), map[int]bool{80: true, 81: false})
	claim(p, "two hundred less", plus(crowd(100), both(81)), map[int]bool{80: true, 81: false})
	claim(p, "thousands more", plus(crowd(1500), both(82)), map[int]bool{81: true, 82: false})
	if now := rules(); now != first || first == "" {
		t.Errorf("the rules were %q, and are %q", first, now)
	}
	all := l.nft(director, "list table netdev ulvs-eth0")
	if err := p.Claim(plus(crowd(1500), both(82))); err != nil {
		t.Fatal(err)
	}
	anew := l.nft(director, "list table netdev ulvs-eth0")
	number := regexp.MustCompile(`-\d+`)
	if rules() == first || number.ReplaceAllString(anew, "-N") != number.ReplaceAllString(all, "-N") {
		t.Errorf("changed bit by bit:\n%s\nwritten anew:\n%s", short(all), short(anew))
	}
	l.nft(director, "delete table netdev ulvs-eth0")
	claim(p, "more after somebody's removal", plus(crowd(300), both(82)), map[int]bool{82: false})
	claim(p, "few", both(80), map[int]bool{80: false, 82: true})
	if sets := l.nft(director, "list table netdev ulvs-eth0"); strings.Contains(sets, "set ") {
		t.Errorf("few services, and their table has sets:\n%s", short(sets))
	}
	claim(p, "a crowd again", plus(crowd(300), both(80)), map[int]bool{80: false})

	// What a daemon leaves that is killed is another one's to replace.
	p.KeepClaims(true)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	next, stop := l.start(director, h, Options{})
	claim(next, "by another daemon", plus(crowd(300), both(81)), map[int]bool{80: true, 81: false})
	claim(next, "one more of it", plus(crowd(300), both(82)), map[int]bool{81: true, 82: false})
	if n := strings.Count(l.nft(director, "list table netdev ulvs-eth0"), "set "); n != 5 {
		t.Errorf("%d sets have names, not two for each of three kinds but one", n)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if tables := l.nft(director, "list tables"); tables != "" {
		t.Errorf("after Run: %q", tables)
	}
}

// Beside the chains of mark rules, one service more or less changes sets alone; a change of
// the rules, and a table that somebody removed, are written anew.
func TestClaimManyMarked(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vipOn(director)
	p, stop := l.start(director, &toHop{}, Options{Owner: "one"})
	claim := func(what string, services int, port uint16, want map[int]bool) {
		t.Helper()
		c := crowd(services)
		rules := []dataplane.MarkRule{
			{Proto: unix.IPPROTO_TCP, Verb: dataplane.Jump, To: "web"},
			{Chain: "web", Proto: unix.IPPROTO_TCP, Value: 7, Mask: ^uint32(0),
				Ports: []dataplane.PortMatch{{Side: dataplane.DestPort, Ranges: []dataplane.PortRange{{First: port, Last: port}}}}},
		}
		c.Marks4, c.Marks6, c.Rules4, c.Rules6 = []uint32{7}, []uint32{7}, rules, rules
		if err := p.Claim(c); err != nil {
			t.Fatalf("claiming %s: %v", what, err)
		}
		for port, refused := range want {
			for _, addr := range []string{vip4, vip6} {
				if got := l.refused(addr, port, refused); got != refused {
					t.Errorf("%s claimed, %s port %d: refused by the host: %v", what, addr, port, got)
				}
			}
		}
	}
	table := func() string { return l.nft(director, "-a list table netdev ulvs-eth0") }
	handles := func() string {
		return strings.Join(regexp.MustCompile(`(?m)^.*(chain|jump|goto).*handle \d+`).FindAllString(table(), -1), "\n")
	}
	claim("a crowd and marks", 300, 80, map[int]bool{80: false, 81: true})
	first := handles()
	claim("one more", 301, 80, map[int]bool{80: false, 81: true})
	claim("one less", 299, 80, map[int]bool{80: false, 81: true})
	if now := handles(); now != first || !strings.Contains(first, "mark-web") {
		t.Errorf("the chains were\n%s\nand are\n%s", short(first), short(now))
	}
	claim("another port", 299, 81, map[int]bool{80: true, 81: false})
	if handles() == first {
		t.Error("the rules have changed, and their chains have not")
	}
	for _, services := range []int{300, 300} { // one more, and the same again
		l.nft(director, "delete table netdev ulvs-eth0")
		claim("after somebody's removal", services, 81, map[int]bool{80: true, 81: false})
		if all := table(); !strings.Contains(all, "chain of-one ") {
			t.Errorf("the table does not say whose it is:\n%s", short(all))
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func short(s string) string { return s[:min(len(s), 4000)] }
