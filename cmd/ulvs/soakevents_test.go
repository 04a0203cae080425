package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
	"github.com/ulvs/ulvs/packet"
)

// soakEvents are what may happen. Those that begin with "replace" put another daemon into
// the place of the one that runs.
var soakEvents = []soakEvent{
	{name: "replace: killed", odds: 3, happen: (*soak).killed},
	{name: "replace: ended", odds: 2, happen: (*soak).ended},
	{name: "replace: takeover", odds: 2, plane: "xdp", happen: (*soak).takeover},
	{name: "signal", odds: 1, happen: (*soak).signal},
	{name: "stopped", odds: 1, happen: (*soak).stopped},
	{name: "socket removed", odds: 1, happen: (*soak).socketRemoved},
	{name: "bad start", odds: 2, happen: (*soak).badStart},
	{name: "weights", odds: 3, happen: (*soak).weights},
	{name: "server deleted", odds: 2, happen: (*soak).serverDeleted},
	{name: "service deleted", odds: 1, happen: (*soak).serviceDeleted},
	{name: "hundreds of services", odds: 2, happen: (*soak).hundreds},
	{name: "listings", odds: 3, happen: (*soak).listings},
	{name: "zero", odds: 1, happen: (*soak).zero},
	{name: "ruleset flushed", odds: 2, happen: (*soak).rulesetFlushed},
	{name: "interface down", odds: 2, happen: (*soak).interfaceDown},
	{name: "address changed", odds: 2, happen: (*soak).addressChanged},
	{name: "MTU changed", odds: 1, happen: (*soak).mtuChanged},
	{name: "SYN flood", odds: 3, happen: (*soak).synFlood},
	{name: "ARP flood", odds: 2, happen: (*soak).arpFlood},
	{name: "fragment flood", odds: 2, happen: (*soak).fragmentFlood},
	{name: "interface removed", odds: 2, live: true, happen: (*soak).linkRemoved},
	{name: "interface renamed", odds: 1, live: true, happen: (*soak).linkRenamed},
	{name: "interface moved", odds: 1, live: true, happen: (*soak).linkMoved},
	{name: "interface enslaved", odds: 1, live: true, happen: (*soak).linkEnslaved},
}

// between draws a time.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least))).Round(time.Millisecond)
}

// drawnSockets draws a value of --af-xdp.
func drawnSockets(r *rand.Rand) string { return []string{"on", "off", "auto"}[r.IntN(3)] }

func (k *soak) killed(r *rand.Rand) {
	pause, sockets, bad := between(r, 0, 2*time.Second), drawnSockets(r), k.plane == *fast && r.IntN(2) == 0
	k.note("killed, nobody for %v, --af-xdp %s, bad starts meanwhile: %v", pause, sockets, bad)
	k.replace(func() {
		_ = k.daemon.Process.Kill()
		_ = k.daemon.Wait()
		if bad {
			k.refusedStarts("--control", filepath.Join(k.dir, "ulvs.sock"), "--plane", "auto", "--pin", k.pins)
		}
	}, pause, k.startOptions(sockets))
}

func (k *soak) ended(r *rand.Rand) {
	pause, sockets := between(r, 0, 2*time.Second), drawnSockets(r)
	k.note("ended, nobody for %v, --af-xdp %s", pause, sockets)
	k.replace(func() { k.stop(k.daemon) }, pause, k.startOptions(sockets))
}

func (k *soak) takeover(r *rand.Rand) {
	sockets := drawnSockets(r)
	k.note("--takeover --af-xdp %s", sockets)
	before, log := k.daemon, k.log
	k.launch(append(k.startOptions(sockets), "--takeover"))
	if err := before.Wait(); err != nil {
		k.t.Errorf("%s: the daemon that was replaced: %v\n%s", k.said, err, log)
	}
}

func (k *soak) signal(r *rand.Rand) {
	signal := []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE}[r.IntN(4)]
	k.note("%s", unix.SignalName(signal))
	_ = k.daemon.Process.Signal(signal)
}

func (k *soak) stopped(r *rand.Rand) {
	pause := between(r, 100*time.Millisecond, 3*time.Second)
	k.note("SIGSTOP for %v", pause)
	_ = k.daemon.Process.Signal(unix.SIGSTOP)
	time.Sleep(pause)
	_ = k.daemon.Process.Signal(unix.SIGCONT)
}

func (k *soak) socketRemoved(*rand.Rand) {
	k.note("the control socket and its lock are removed")
	for _, name := range []string{"ulvs.sock", "ulvs.sock.lock"} {
		if err := os.Remove(filepath.Join(k.dir, name)); err != nil {
			k.t.Error(err)
		}
	}
	k.await("a control socket is there again", func() bool {
		_, err := k.tryCommand("ipvsadm -Ln")
		return err == nil
	})
}

// await waits for what is due.
func (k *soak) await(what string, is func() bool) {
	k.t.Helper()
	for began := time.Now(); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			k.t.Fatalf("%s: after %v it is not so that %s\n%s", k.said, patience, what, k.log)
		}
	}
}

func (k *soak) badStart(*rand.Rand) {
	k.note("a second director, a typo, other --connections")
	other := []string{"--control", filepath.Join(k.dir, "second.sock"), "--plane", k.plane}
	if k.plane == *fast {
		other = append(other, "--pin", filepath.Join(filepath.Dir(k.pins), "second"))
	}
	k.refusedStarts(other...)
	if k.plane == *fast {
		k.refusedStarts("--control", filepath.Join(k.dir, "ulvs.sock"), "--plane", "auto", "--pin", k.pins, "--takeover")
	}
}

// refusedStarts are starts that must change nothing.
func (k *soak) refusedStarts(options ...string) {
	k.t.Helper()
	k.gate.Lock()
	defer k.gate.Unlock()
	for _, more := range [][]string{{"--interface", "eth0", "--connections", "30000"}, {"--interface", "eth9", "--connections", fmt.Sprint(soakConnections)}} {
		before := k.outside(k.pins)
		words := slices.Concat([]string{program(k.t), "run"}, options, more)
		out, code := k.attempt(words...)
		if code != 1 || !strings.Contains(out, "eth9") && !strings.Contains(out, "nothing was changed") && !strings.Contains(out, "another ulvs") {
			k.t.Errorf("%s: %v: exit %d: %s", k.said, words, code, out)
		}
		if d := cmp.Diff(before, k.outside(k.pins)); d != "" {
			k.t.Errorf("%s: %v: it has changed something (-before +after):\n%s", k.said, words, d)
		}
	}
}

func (k *soak) weights(r *rand.Rand) {
	var lines []string
	for range 1 + r.IntN(6) {
		service := fmt.Sprint("-t ", floodVIP, ":", soakPorts[1+r.IntN(2)])
		n := r.IntN(soakServers)
		lines = append(lines, "-e"+soakServer(service, n, r.IntN(9)+1-n)[2:]) // the first is never quiescent
	}
	k.note("%s", strings.Join(lines, ", "))
	k.give(lines...)
}

// serverDeleted has connections wait until their server is there again.
func (k *soak) serverDeleted(r *rand.Rand) {
	service := fmt.Sprint("-t ", floodVIP, ":", soakPorts[r.IntN(3)])
	line := soakServer(service, 1, 1)
	pause := between(r, 0, time.Second)
	k.note("-d%s, again after %v", line[2:strings.Index(line, " -g")], pause)
	k.give("-d" + line[2:strings.Index(line, " -g")])
	time.Sleep(pause)
	k.give(line)
}

// serviceDeleted has connections wait until their service is there again. Nobody else
// comes meanwhile, as he would be refused.
func (k *soak) serviceDeleted(r *rand.Rand) {
	service := fmt.Sprint("-t ", floodVIP, ":", soakPorts[0])
	pause := between(r, 0, time.Second)
	k.note("-D %s, again after %v", service, pause)
	k.load.freshGate.Lock()
	defer k.load.freshGate.Unlock()
	k.give("-D " + service)
	time.Sleep(pause)
	k.give(soakRules(k.plane)[:1+soakServers]...)
}

// hundreds adds services, or removes those that there are.
func (k *soak) hundreds(r *rand.Rand) {
	n, first := 100+r.IntN(300), fmt.Sprint("-t ", floodVIP, ":", 3000)
	k.gate.RLock()
	there := k.told["-A "+first+" -s rr"]
	k.gate.RUnlock()
	var lines []string
	for port := 3000; port < 3000+n || there; port++ {
		service := fmt.Sprint("-t ", floodVIP, ":", port)
		if !there {
			lines = append(lines, "-A "+service+" -s rr", soakServer(service, 0, 1), soakServer(service, 1, 1))
		} else if k.told["-A "+service+" -s rr"] {
			lines = append(lines, "-D "+service)
		} else {
			break
		}
	}
	k.note("ipvsadm -R of %d lines, the first is %s", len(lines), lines[0])
	k.give(lines...)
}

func (k *soak) listings(*rand.Rand) {
	k.note("what can be listed")
	for _, line := range []string{"ipvsadm -Ln", "ipvsadm -Lnc", "ipvsadm -Ln --stats", "ipvsadm -Ln --rate", "ipvsadm -Ln --thresholds",
		"ipvsadm -Ln --persistent-conn", "ipvsadm -L --timeout", "iptables -t mangle -S", "ulvs sysctl", "ulvs status --all", "ulvs status --json"} {
		if line == "iptables -t mangle -S" || k.must(line) != "" {
			continue
		}
		k.t.Errorf("%s: %s says nothing", k.said, line)
	}
}

func (k *soak) zero(*rand.Rand) {
	k.note("ipvsadm -Z")
	k.must("ipvsadm -Z")
}

func (k *soak) rulesetFlushed(*rand.Rand) {
	k.note("nft flush ruleset")
	k.gate.Lock() // a command that finds it gone says so
	defer k.gate.Unlock()
	tables, rules := k.claims()
	k.flushRuleset()
	k.await("the tables are there again", func() bool {
		n, m := k.claims()
		return n == tables && m == rules
	})
}

// link is the director's interface.
func (k *soak) link() netlink.Link {
	k.t.Helper()
	l, err := k.director.Netlink().LinkByName("eth0")
	if err != nil {
		k.t.Fatal(err)
	}
	return l
}

func (k *soak) interfaceDown(r *rand.Rand) {
	k.t.Helper()
	pause := between(r, 0, time.Second)
	k.note("for %v", pause)
	nl := k.director.Netlink()
	if err := nl.LinkSetDown(k.link()); err != nil {
		k.t.Fatal(err)
	}
	time.Sleep(pause)
	if err := nl.LinkSetUp(k.link()); err != nil {
		k.t.Fatal(err)
	}
}

func (k *soak) addressChanged(r *rand.Rand) {
	k.t.Helper()
	next := lab.MAC(0x9900 + r.Uint32N(4))
	k.note("%v becomes %v", k.mac, next)
	same, before := next.String() == k.mac.String(), k.programID()
	k.check(k.director.Netlink().LinkSetHardwareAddr(k.link(), next))
	k.mac = next
	copy(k.flood.frame, next)
	k.wire(next)
	if k.plane == *fast && !same { // the address is in the program
		k.await("another program is there", func() bool { return k.programID() != before })
	}
}

// programID is the number of the interface's program.
func (k *soak) programID() uint32 {
	k.t.Helper()
	if xdp := k.link().Attrs().Xdp; xdp != nil {
		return xdp.ProgId
	}
	return 0
}

func (k *soak) mtuChanged(r *rand.Rand) {
	mtu := 1400 + r.IntN(101)
	k.note("%d", mtu)
	if err := k.director.Netlink().LinkSetMTU(k.link(), mtu); err != nil {
		k.t.Error(err)
	}
}

func (k *soak) synFlood(r *rand.Rand) {
	rate, lasts := 1000+r.IntN(7000), between(r, time.Second, 4*time.Second)
	k.note("%d SYNs/s for %v", rate, lasts)
	if _, _, err := k.flood.send(rate, lasts); err != nil {
		k.t.Error(err)
	}
}

func (k *soak) arpFlood(r *rand.Rand) {
	rate, lasts := 1000+r.IntN(8000), between(r, time.Second, 3*time.Second)
	k.note("requests from %d neighbours/s for %v", rate, lasts)
	send := k.arp[k.mac.String()]
	if send == nil {
		send = requests(k.t, k.stranger, k.mac)
		k.arp[k.mac.String()] = send
	}
	paced(rate, lasts, func(n int) { send(n) })
}

// paced calls f at a rate for a time.
func paced(rate int, lasts time.Duration, f func(n int)) {
	n := 0
	for began := time.Now(); time.Since(began) < lasts; time.Sleep(time.Millisecond) {
		for due := min(int(time.Since(began).Seconds()*float64(rate)), n+rate/10); n < due; n++ {
			f(n)
		}
	}
}

// fragmentFlood sends later fragments and then the first ones, of datagrams that never
// end, behind one whose first does not come.
func (k *soak) fragmentFlood(r *rand.Rand) {
	rate, lasts := 1000+r.IntN(7000), between(r, time.Second, 3*time.Second)
	k.note("%d pairs/s for %v", rate, lasts)
	from := r.Uint32()
	frame := slices.Concat(k.flood.frame[:14], []byte{0x45, 0, 0, 44, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0},
		net.ParseIP(floodVIP).To4(), make([]byte, 24))
	send := func(id uint32, fragment uint16) {
		ip := frame[14:34]
		binary.BigEndian.PutUint16(ip[4:], uint16(id))
		binary.BigEndian.PutUint16(ip[6:], fragment)
		binary.BigEndian.PutUint32(ip[12:], 0x1000_0000|(from+id)&0x0fff_ffff)
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip))
		copy(frame[34:], []byte{0x27, 0x10, 0, 53, 0, 100, 0, 0})
		_, _ = unix.Write(k.flood.fd, frame)
	}
	const more = 0x2000
	send(0, more|9)
	paced(rate, lasts, func(n int) {
		send(uint32(n+1), more|3)
		send(uint32(n+1), more)
	})
}
