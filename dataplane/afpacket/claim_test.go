package afpacket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// patience is how long a test waits for what is due: so long that it is not the machine's
// fault if it does not come.
const patience = time.Minute

// patienceFor is how long to wait for an answer: short, if none is due.
func patienceFor(due bool) time.Duration {
	if due {
		return patience
	}
	return 150 * time.Millisecond
}

// both claims a TCP port, 0 for all, of both virtual addresses.
func both(port uint16) dataplane.Claims {
	return dataplane.Claims{Services: []dataplane.Claim{
		{Addr: virtual4, Proto: unix.IPPROTO_TCP, Port: port},
		{Addr: virtual6, Proto: unix.IPPROTO_TCP, Port: port},
	}}
}

// refused reports whether the director's stack answers a connection attempt
// with a reset. Otherwise the attempt gets no answer at all, for which it waits
// long if it wants one.
func (l *lab) refused(addr string, port int, want bool) (yes bool) {
	l.t.Helper()
	l.in(client, func() {
		_, err := (&net.Dialer{Timeout: patienceFor(want)}).DialContext(context.Background(), "tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
		var wait net.Error
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			yes = true
		case errors.As(err, &wait) && wait.Timeout():
		default:
			l.fail(fmt.Sprintf("connecting to %s port %d: %v", addr, port, err))
		}
	})
	return yes
}

// The virtual addresses are the director's own and nobody listens: its stack
// resets connections to all but what is claimed, and we see those packets.
func TestClaim(t *testing.T) {
	t.Parallel()
	t.Run("default", func(t *testing.T) {
		l := newLab(t)
		l.vipOn(director)
		h := &toHop{}
		p, stop := l.start(director, h, Options{})
		for _, c := range []struct {
			what  string
			claim dataplane.Claims
			want  map[int]bool // port: refused
		}{
			{"nothing", dataplane.Claims{}, map[int]bool{80: true}},
			{"port 80", both(80), map[int]bool{80: false, 81: true}},
			{"port 81 instead", both(81), map[int]bool{80: true, 81: false}},
			{"another protocol", dataplane.Claims{Services: []dataplane.Claim{{Addr: virtual4, Proto: unix.IPPROTO_UDP}, {Addr: virtual6, Proto: unix.IPPROTO_UDP}}}, map[int]bool{80: true}},
			{"two ports, another's and another protocol's", among(1, 80, 443), map[int]bool{80: false, 443: false, 81: true, 82: true}},
			{"two ports, and those of many others", among(6, 80, 443), map[int]bool{80: false, 443: false, 81: true, 82: true}},
			{"all ports", both(0), map[int]bool{80: false, 81: false}},
			{"a mark, of both families", marked(82, 83), map[int]bool{80: true, 82: false, 83: false}},
			{"nothing again", dataplane.Claims{}, map[int]bool{80: true}},
			{"port 80 at last", both(80), map[int]bool{80: false}},
		} {
			if err := p.Claim(c.claim); err != nil {
				t.Fatalf("claiming %s: %v", c.what, err)
			}
			for port, want := range c.want {
				for _, addr := range []string{vip4, vip6} {
					before := h.count()
					if got := l.refused(addr, port, want); got != want {
						t.Errorf("%s claimed, %s port %d: refused by the host: %v", c.what, addr, port, got)
					}
					eventually(t, fmt.Sprintf("%s claimed, the plane sees the packet to %s port %d", c.what, addr, port), func() bool { return h.count() > before })
				}
			}
		}
		if !p.Withholds() {
			t.Error("it does withhold claimed packets")
		}
		if tables := l.nft(director, "list tables"); !strings.Contains(tables, "table netdev ulvs-eth0") {
			t.Errorf("while it runs: %q", tables)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if tables := l.nft(director, "list tables"); tables != "" {
			t.Errorf("after Run: %q", tables)
		}
		if !l.refused(vip4, 80, true) {
			t.Error("after Run the host still does not answer")
		}
		if p.Claim(both(80)) == nil {
			t.Error("a plane that ended took a claim")
		}
	})
}

// among claims TCP ports of both virtual addresses, port 81 by UDP, and port 82 of n
// other addresses.
func among(n byte, ports ...uint16) (c dataplane.Claims) {
	for _, addr := range []netip.Addr{virtual4, virtual6} {
		for _, port := range ports {
			c.Services = append(c.Services, dataplane.Claim{Addr: addr, Proto: unix.IPPROTO_TCP, Port: port})
		}
		c.Services = append(c.Services, dataplane.Claim{Addr: addr, Proto: unix.IPPROTO_UDP, Port: 81})
		other := addr.AsSlice()
		for other[0] = 100; other[0] < 100+n; other[0]++ {
			to, _ := netip.AddrFromSlice(other)
			c.Services = append(c.Services, dataplane.Claim{Addr: to, Proto: unix.IPPROTO_TCP, Port: 82})
		}
	}
	return c
}

// marked claims TCP ports by a mark rule.
func marked(ports ...uint16) dataplane.Claims {
	rule := dataplane.MarkRule{Proto: unix.IPPROTO_TCP, Value: 7, Mask: ^uint32(0)}
	m := dataplane.PortMatch{Side: dataplane.DestPort}
	for _, p := range ports {
		m.Ranges = append(m.Ranges, dataplane.PortRange{First: p, Last: p})
	}
	rule.Ports = []dataplane.PortMatch{m}
	return dataplane.Claims{
		Marks4: []uint32{7}, Rules4: []dataplane.MarkRule{rule},
		Marks6: []uint32{7}, Rules6: []dataplane.MarkRule{rule},
	}
}

func (l *lab) nft(host int, args string) (out string) {
	l.in(host, func() {
		b, err := exec.Command("nft", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			l.fail(fmt.Sprintf("nft %s: %v\n%s", args, err, b))
		}
		out = string(b)
	})
	return out
}

// A killed daemon leaves its table behind; the next one cleans it up, whether
// it claims something or not.
func TestStaleTable(t *testing.T) {
	t.Parallel()
	for _, claims := range []bool{false, true} {
		l := newLab(t)
		l.vipOn(director)
		l.in(director, func() {
			dead, err := New(Options{Interfaces: []string{"eth0"}})
			l.must(err)
			l.must(dead.Claim(both(80)))
			dead.release() // as when its process ends
		})
		if l.refused(vip4, 80, false) {
			t.Error("the table went with its process")
		}
		p, stop := l.start(director, &toHop{}, Options{})
		if claims {
			if err := p.Claim(both(81)); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "port 80 is the host's again", func() bool { return l.refused(vip4, 80, true) })
		if err := stop(); err != nil {
			t.Error(err)
		}
		if tables := l.nft(director, "list tables"); tables != "" {
			t.Errorf("after Run: %q", tables)
		}
	}
}

// While a claim is replaced by another that holds the same service, no packet
// slips through to the host.
func TestReplaceWithoutGap(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vipOn(director)
	p, _ := l.start(director, &toHop{}, Options{})
	few := dataplane.Claims{Services: []dataplane.Claim{{Addr: virtual4, Proto: unix.IPPROTO_UDP, Port: 99}}}
	many := few
	for port := range uint16(1200) { // more than one set holds
		many.Services = append(many.Services, dataplane.Claim{Addr: virtual4, Proto: unix.IPPROTO_UDP, Port: port + 1})
	}
	if err := p.Claim(many); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	end := make(chan struct{})
	var replaced atomic.Int32
	go func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				done <- nil
				return
			default:
			}
			c := few
			if i%2 == 0 {
				c = many
			}
			if err := p.Claim(c); err != nil {
				done <- err
				return
			}
			replaced.Add(1)
		}
	}()
	l.in(client, func() {
		// The host answers a datagram that slipped with port unreachable.
		conn, err := net.Dial("udp", vip4+":99")
		l.must(err)
		defer conn.Close()
		var slipped, sent int
		for begin := time.Now(); (replaced.Load() < 40 || sent < 2000) && time.Since(begin) < patience; sent++ {
			if _, err := conn.Write([]byte("x")); errors.Is(err, syscall.ECONNREFUSED) {
				slipped++
			}
			time.Sleep(20 * time.Microsecond)
		}
		if slipped > 0 {
			l.t.Errorf("%d of %d datagrams were answered by the host", slipped, sent)
		}
		l.t.Logf("%d datagrams, %d claims", sent, replaced.Load())
	})
	close(end)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Later fragments have no ports; those to a claimed address and protocol are
// dropped, or the host would keep them for reassembly and complain.
func TestClaimFragments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vipOn(director)
	p, _ := l.start(director, &toHop{}, Options{})
	claim := dataplane.Claims{Services: []dataplane.Claim{
		{Addr: virtual4, Proto: unix.IPPROTO_UDP, Port: 53},
		{Addr: virtual6, Proto: unix.IPPROTO_UDP, Port: 53},
	}}
	// A datagram of several fragments to a port that is not claimed: it would
	// be delivered, and answered by port unreachable, if all of it arrived.
	answered := func(network, addr string, due bool) (yes bool) {
		l.in(client, func() {
			conn, err := net.Dial(network, net.JoinHostPort(addr, "54"))
			l.must(err)
			defer conn.Close()
			// Again, where one is due: all namespaces share the kernel's neighbour table,
			// and other tests fill it.
			for end := time.Now().Add(patienceFor(due)); !yes && time.Now().Before(end); {
				_, err = conn.Write(make([]byte, 4000))
				if err == nil {
					_ = conn.SetReadDeadline(time.Now().Add(min(time.Second, patienceFor(due))))
					_, err = conn.Read(make([]byte, 10))
				}
				yes = errors.Is(err, syscall.ECONNREFUSED)
			}
		})
		return yes
	}
	for network, addr := range map[string]string{"udp4": vip4, "udp6": vip6} {
		if err := p.Claim(dataplane.Claims{}); err != nil {
			t.Fatal(err)
		}
		if !answered(network, addr, true) {
			t.Errorf("%s: unclaimed fragments were not answered", network)
		}
		if err := p.Claim(claim); err != nil {
			t.Fatal(err)
		}
		if answered(network, addr, false) {
			t.Errorf("%s: all fragments got through to the host", network)
		}
	}
}

func TestClaimRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var p *Plane
	l.in(director, func() {
		var err error
		p, err = New(Options{Interfaces: []string{"eth0"}})
		l.must(err)
	})
	t.Cleanup(func() { _ = p.Close() })
	for want, c := range map[string]dataplane.Claims{
		"cannot claim a service at address \"invalid IP\": give an address without a zone": {Services: []dataplane.Claim{{}}},
		"mark rule 1: address fd08:1::1 mask fd08:1::1: both must be of the rule's family": {Marks4: []uint32{1}, Rules4: []dataplane.MarkRule{{Src: dataplane.AddrMatch{Addr: virtual6, Mask: virtual6}}}},
		"mark rule 1: verb 0 to chain \"c\": a chain belongs to Jump and Goto":             {Marks4: []uint32{1}, Rules4: []dataplane.MarkRule{{To: "c"}}},
		"cannot claim by mark rule 1: addresses fd08:1::1 to fd08:1::1: both must be of the rule's family": {Marks4: []uint32{1}, Rules4: []dataplane.MarkRule{
			{SrcRanges: []dataplane.AddrRange{{First: virtual6, Last: virtual6}}}}},
		"first is larger": {Marks6: []uint32{1}, Rules6: []dataplane.MarkRule{{Ports: []dataplane.PortMatch{{Ranges: []dataplane.PortRange{{First: 2, Last: 1}}}}}}},
		"unknown side":    {Marks6: []uint32{1}, Rules6: []dataplane.MarkRule{{Ports: []dataplane.PortMatch{{Side: 9}}}}},
		"more than four":  {Marks6: []uint32{1}, Rules6: []dataplane.MarkRule{{Ports: either(5)}}},
	} {
		if err := p.Claim(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for want, errno := range map[string]error{
		"changing nftables needs CAP_NET_ADMIN: operation not permitted": unix.EPERM,
		"nftables refused the claims: device or resource busy":           unix.EBUSY,
	} {
		if err := nftError(errno); err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, errno := range []error{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT} {
		// No advice that would not help: without the hook no service is accepted, whatever addresses the host has.
		const want = "the kernel has no nftables netdev ingress hook: run ulvs on one with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_INGRESS ("
		if err := nftError(errno); !errors.Is(err, ErrNoNftables) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v became %v", errno, err)
		}
	}
}

func either(n int) (out []dataplane.PortMatch) {
	for range n {
		out = append(out, dataplane.PortMatch{Side: dataplane.EitherPort})
	}
	return out
}

// Interfaces that are renamed before they go leave tables by all those names, but few.
func TestGoneClaims(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p, _ := l.start(director, &toHop{}, Options{})
	l.must(p.Claim(both(80)))
	tables := func() int { return strings.Count(l.nft(director, "list tables"), "table netdev ulvs-") }
	for i := range mostGone + 4 {
		name := fmt.Sprint("was", i)
		l.in(director, func() {
			l.ip("link set eth0 down")
			l.ip("link set eth0 name " + name)
		})
		has := func(table string) bool {
			return strings.Contains(l.nft(director, "list tables")+"\n", "ulvs-"+table+"\n")
		}
		eventually(t, "the table of "+name, func() bool { return has(name) })
		l.in(director, func() {
			l.ip("link del " + name)
			l.ip(fmt.Sprintf("link add eth0 type veth peer name peer%d", i))
		})
		eventually(t, "the table of the next one", func() bool { return has("eth0") })
	}
	if n := tables(); n > mostGone+1 {
		t.Errorf("%d tables: %s", n, l.nft(director, "list tables"))
	}
}
