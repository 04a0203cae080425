package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// A daemon is replaced by another while clients open connections and use them: no packet
// of an established connection is lost, no client sees a reset or an error, and none has
// to send a SYN a third time.
func TestTakeover(t *testing.T) {
	k := &takeover{pinSite: newPinSite(t), end: make(chan bool)}
	k.onWire = watchTCP(t, k.client, k.servers)
	proc := t.TempDir()
	before := k.run("--procfs", proc)
	k.configure()
	k.load()
	k.opens(100)
	first := k.status()
	maps.DeleteFunc(first, func(_ string, n int) bool { return n == 0 })
	established := k.established()
	after := k.run("--procfs", proc, "--takeover")
	k.part("the daemon that was replaced ends without an error", func() {
		if err := before.Wait(); err != nil {
			k.t.Errorf("%v\n%s", err, before.Stderr)
		}
		for _, want := range []string{`msg="another daemon takes over; this one ends"`, "msg=ended"} {
			if log := fmt.Sprint(before.Stderr); !strings.Contains(log, want) {
				k.t.Errorf("not %s in %s", want, log)
			}
		}
	})
	k.part("what is read of IPVS's files is still there", func() {
		if _, err := os.ReadFile(filepath.Join(proc, "net/ip_vs_stats")); err != nil {
			k.t.Error(err)
		}
	})
	k.opens(100)
	k.part("every connection goes on with the next daemon", k.echoAgain)
	k.part("no packet of an established connection is lost", func() { k.nothingLost(established) })
	k.stop()
	t.Logf("%d connections, %d before, when it had counted %v\n%s", len(k.conns), len(established), first, after.Stderr)
	k.part("no client sees a reset or an error", k.noError)
	k.part("no client sends a SYN a third time", func() { k.twoSYNs(fmt.Sprint(before.Stderr), fmt.Sprint(after.Stderr)) })
	k.part("no packet is answered for the host", func() {
		if n := first["answered_for_host"] + k.status()["answered_for_host"]; n > 0 {
			k.t.Errorf("%d packets were", n)
		}
	})
}

// takeover is the course of TestTakeover, and its load: connections that are opened one
// after the other, each kept and used until the end.
type takeover struct {
	*pinSite
	onWire  *tcpWatch
	end     chan bool
	stop    func()
	running sync.WaitGroup

	mu    sync.Mutex
	conns []*takeoverConn
}

// takeoverConn is a client's connection; the load's lock is for all of it.
type takeoverConn struct {
	tcp    *net.TCPConn
	local  netip.AddrPort // the client's
	again  int            // how often its SYN was sent again
	echoes int
	err    error
}

const (
	takeoverPace = 5 * time.Millisecond  // a connection
	takeoverRest = 50 * time.Millisecond // between what a connection asks and what it asks next
	takeoverMost = 4000                  // connections: as many files, twice
)

func (k *takeover) configure() {
	k.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s rr
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.201 -g
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.202 -g
	`)
	vip := netip.MustParseAddr("192.168.10.101")
	if err := k.client.SetNeighbor(lab.Neighbor{Addr: vip, MAC: k.director.MAC()}); err != nil {
		k.t.Fatal(err)
	}
	for i, h := range k.servers {
		answers(k.t, h, vip)
		// The kernel's table of neighbours is one for all namespaces, and others may fill it.
		server := lab.Neighbor{Addr: netip.AddrFrom4([4]byte{192, 168, 10, byte(200 + i)}), MAC: h.MAC()}
		client := lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.1"), MAC: k.client.MAC()}
		if err := errors.Join(k.director.SetNeighbor(server), h.SetNeighbor(client)); err != nil {
			k.t.Fatal(err)
		}
	}
}

// load begins the load, which ends with the test at the latest.
func (k *takeover) load() {
	k.stop = sync.OnceFunc(func() {
		close(k.end)
		k.running.Wait()
	})
	k.t.Cleanup(k.stop)
	k.running.Go(func() {
		tick := time.NewTicker(takeoverPace)
		defer tick.Stop()
		for range takeoverMost {
			select {
			case <-k.end:
				return
			case <-tick.C:
			}
			c := new(takeoverConn)
			k.mu.Lock()
			k.conns = append(k.conns, c)
			k.mu.Unlock()
			k.running.Go(func() { k.use(c) })
		}
	})
}

// use opens a connection, and has it echo until the end.
func (k *takeover) use(c *takeoverConn) {
	var conn net.Conn
	err := k.client.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", "192.168.10.101:80", patience)
		return err
	})
	if err == nil {
		defer conn.Close()
		var info *unix.TCPInfo
		info, err = tcpInfo(conn.(*net.TCPConn))
		k.mu.Lock()
		c.tcp = conn.(*net.TCPConn)
		c.local = unmapped(conn.LocalAddr())
		if err == nil {
			c.again = int(info.Total_retrans)
		}
		k.mu.Unlock()
	}
	for err == nil {
		if err = echoed(conn); err != nil {
			break
		}
		k.mu.Lock()
		c.echoes++
		k.mu.Unlock()
		select {
		case <-k.end:
			return
		case <-time.After(takeoverRest):
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c.err = err
}

// tcpInfo is what the kernel says of a connection.
func tcpInfo(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil {
		return nil, e
	}
	return info, err
}

// await waits until something is true of the connections.
func (k *takeover) await(what string, is func([]*takeoverConn) bool) {
	k.t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		k.mu.Lock()
		ok := is(k.conns)
		k.mu.Unlock()
		if ok {
			return
		}
		if time.Since(begin) > patience {
			k.t.Fatalf("after %v it is not so that %s", patience, what)
		}
	}
}

// opens waits until so many connections more were begun, and have echoed or failed.
func (k *takeover) opens(n int) {
	k.t.Helper()
	k.mu.Lock()
	from := len(k.conns)
	k.mu.Unlock()
	k.await(fmt.Sprintf("%d connections more are open", n), func(all []*takeoverConn) bool {
		open := 0
		for _, c := range all[from:] {
			if c.echoes > 0 || c.err != nil {
				open++
			}
		}
		return open >= n
	})
}

// established are the connections that have echoed.
func (k *takeover) established() (list []*takeoverConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		if c.echoes > 0 && c.err == nil {
			list = append(list, c)
		}
	}
	return list
}

// echoAgain waits until each connection has echoed again, or failed.
func (k *takeover) echoAgain() {
	k.mu.Lock()
	was := make([]int, len(k.conns))
	for i, c := range k.conns {
		was[i] = c.echoes
	}
	k.mu.Unlock()
	k.await("every connection echoes again", func(all []*takeoverConn) bool {
		for i, n := range was {
			if c := all[i]; c.err == nil && c.echoes < n+2 { // the first may have been under way
				return false
			}
		}
		return true
	})
}

// nothingLost looks at what connections have sent again. A busy machine answers late, and
// what was sent again for that was there twice, which the server says (RFC 2883).
func (k *takeover) nothingLost(list []*takeoverConn) {
	k.await("all that was sent again came twice, and was not lost", func([]*takeoverConn) bool {
		for _, c := range list {
			if c.err != nil {
				continue
			}
			info, err := tcpInfo(c.tcp)
			if err != nil {
				k.t.Fatal(err)
			}
			if int(info.Total_retrans)-c.again > int(info.Dsack_dups) {
				return false
			}
		}
		return true
	})
}

func (k *takeover) noError() {
	for i, c := range k.conns {
		if c.err != nil {
			k.t.Errorf("connection %d, after %d echoes: %v; on the wire %s", i, c.echoes, c.err, k.onWire.said(c.local))
		}
	}
}

// twoSYNs looks at how often clients have sent SYNs. On a machine so busy that nobody was there
// for nearly a second, a second one may have been lost too.
func (k *takeover) twoSYNs(before, after string) {
	gap := logged(k.t, after, "msg=ready").Sub(logged(k.t, before, `msg="another daemon takes over`))
	twice, most := 0, 1
	if gap > 900*time.Millisecond {
		most = 2
	}
	for i, c := range k.conns {
		if c.again > 0 {
			twice++
		}
		if c.again > most {
			k.t.Errorf("connection %d has sent its SYN %d times", i, 1+c.again)
		}
	}
	k.t.Logf("nobody was there for %v; %d sent a second one", gap, twice)
}

// logged is when a daemon has said something.
func logged(t *testing.T, log, what string) time.Time {
	t.Helper()
	for line := range strings.Lines(log) {
		if at, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " "); strings.Contains(line, what) {
			when, err := time.Parse(time.RFC3339Nano, at)
			if err != nil {
				t.Fatal(err)
			}
			return when
		}
	}
	t.Fatalf("not %s in %s", what, log)
	return time.Time{}
}

// answers has a host echo what comes to port 80 of an address that it does not
// announce.
func answers(t *testing.T, h *lab.Host, vip netip.Addr) {
	t.Helper()
	for _, name := range []string{"net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.eth0.arp_ignore"} {
		if err := h.Sysctl(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	lo, err := h.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Netlink().AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
		t.Fatal(err)
	}
	echoAt(t, h, "tcp", netip.AddrPortFrom(vip, 80).String())
}

// echoAt has a host echo what comes to an address, until the test ends.
func echoAt(t *testing.T, h *lab.Host, network, address string) {
	t.Helper()
	serveAt(t, h, network, address, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

// serveAt has a host serve each connection to an address, and close it, until the test ends.
func serveAt(t *testing.T, h *lab.Host, network, address string, serve func(net.Conn)) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

func echoed(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}
