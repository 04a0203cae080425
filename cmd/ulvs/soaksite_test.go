package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// soak is the course of TestSoak.
type soak struct {
	*floodSite
	plane string
	seed  uint64
	began time.Time
	said  string // the event that happens, and when it began

	happened            map[string]int // events, how often
	pins, inside, rules string
	daemon              *lab.Cmd
	log                 *said // the daemon's
	mac                 net.HardwareAddr
	far                 *lab.Host // the client at the second interface, or nil
	load                *soakLoad
	arp                 map[string]func(int) // ARP requests to an address of the director's

	// gate is held to read by who gives commands beside events, and to write by who needs
	// that nobody does.
	gate sync.RWMutex
	// told are the lines of ipvsadm -Sn that there should be, and unsure the services of
	// which that is not known, as a command was not answered.
	told   map[string]bool
	unsure map[string]bool
}

// soakPorts are the services of clients who come: of round robin, weighted, persistent. The
// connections that stay are the first one's.
var soakPorts = []int{80, 81, 82}

const (
	soakConnections = 20000
	soakServers     = 2
)

// soakRules are the services that are always there. AF_PACKET keeps nothing: there a client
// must find his server again by his address.
func soakRules(plane string) (lines []string) {
	scheduler := map[string]string{"xdp": "rr", "afpacket": "sh"}[plane]
	for i, options := range []string{"-s " + scheduler, "-s wrr", "-s wlc -p 60"} {
		service := fmt.Sprint("-t ", floodVIP, ":", soakPorts[i])
		lines = append(lines, "-A "+service+" "+options)
		for n := range soakServers {
			lines = append(lines, soakServer(service, n, 1))
		}
	}
	return append(lines, "-A -u "+floodVIP+":53 -s rr", soakServer("-u "+floodVIP+":53", 0, 1))
}

// soakServer is how -Sn lists a real server.
func soakServer(service string, n, weight int) string {
	_, port, _ := strings.Cut(service, ":")
	return fmt.Sprintf("-a %s -r 192.168.10.%d:%s -g -w %d", service, 200+n, port, weight)
}

func newSoak(t *testing.T, plane string, seed uint64) *soak {
	t.Helper()
	// Before the hosts are made, which see what is mounted then.
	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Fatalf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	k := &soak{floodSite: newFloodSite(t), plane: plane, seed: seed, pins: filepath.Join(fs, "ulvs"), inside: t.TempDir(),
		arp: map[string]func(int){}, happened: map[string]int{}, told: map[string]bool{}, unsure: map[string]bool{}}
	k.mac = k.director.MAC()
	k.rules = filepath.Join(k.dir, "rules")
	if err := os.WriteFile(k.rules, []byte(strings.Join(soakRules(plane), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if *soakLive {
		k.addFar()
	}
	for _, h := range k.servers {
		for _, port := range soakPorts[1:] {
			echoAt(t, h, "tcp", fmt.Sprint(floodVIP, ":", port))
		}
	}
	return k
}

// begin starts the daemon, the load, and who gives commands beside the events.
func (k *soak) begin() {
	k.began = time.Now()
	k.launch(k.startOptions("on"))
	k.forgetTold()
	k.load = newSoakLoad(k)
	k.load.running.Go(k.command)
}

// startOptions are what the daemon is started with.
func (k *soak) startOptions(sockets string) []string {
	interfaces := "eth0"
	if k.far != nil {
		interfaces += ",eth1"
	}
	list := []string{"--interface", interfaces, "--plane", k.plane, "--connections", fmt.Sprint(soakConnections), "--rules", k.rules}
	if k.plane == *fast {
		return append(list, "--pin", k.pins, "--af-xdp", sockets)
	}
	return append(list, "--pin", noPins)
}

// launch starts a daemon and waits until it is ready.
func (k *soak) launch(options []string) {
	k.t.Helper()
	c := k.director.Command(context.Background(), k.program(), append([]string{"run", "--control", filepath.Join(k.dir, "ulvs.sock")}, options...)...)
	c.Env = append(os.Environ(), insideDir+"="+k.inside)
	k.daemon = k.ready(c)
	k.log = c.Stderr.(*said)
	if k.plane == "afpacket" { // who was there before is not known, and taken as he comes
		k.must("ulvs sysctl net.ipv4.vs.sloppy_tcp=1")
	}
}

// replaceKilled kills the daemon, and starts another one after a while.
func (k *soak) replaceKilled(pause time.Duration, options []string) {
	k.t.Helper()
	k.replace(func() {
		_ = k.daemon.Process.Kill()
		_ = k.daemon.Wait()
	}, pause, options)
}

// replace ends the daemon, and starts another one after a while. On AF_PACKET, where
// nothing is kept, what clients send meanwhile gets nowhere, and a connection is unknown until
// its client has sent something: by services other than the first he may find another server then,
// so that nobody is on a visit meanwhile.
func (k *soak) replace(end func(), pause time.Duration, options []string) {
	k.t.Helper()
	if k.plane == "afpacket" {
		k.gate.Lock()
		defer k.gate.Unlock()
		k.load.freshGate.Lock()
		defer k.load.freshGate.Unlock()
		k.wire(lab.MAC(0xdead))
		k.wireFar(lab.MAC(0xdead))
		defer func() {
			k.wire(k.mac)
			k.wireFar(soakFarMAC)
			k.load.exchangeAgain(k)
		}()
		defer k.forgetTold()
	}
	end()
	time.Sleep(pause)
	k.launch(options)
}

// wire has what the client sends to the virtual address go to a MAC address.
func (k *soak) wire(to net.HardwareAddr) {
	k.t.Helper()
	if err := k.client.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr(floodVIP), MAC: to}); err != nil {
		k.t.Fatal(err)
	}
}

// must carries out a command that is to succeed without a word, and returns what it prints.
func (k *soak) must(line string) string {
	k.t.Helper()
	return k.restore("", line)
}

func (k *soak) restore(text, line string) string {
	k.t.Helper()
	out, code := k.ulvs(text, strings.Fields(line)...)
	if code != 0 {
		k.t.Errorf("%s: %s: exit %d: %s", k.said, line, code, out)
	}
	return out
}

// give carries out commands that change services, as ipvsadm -R does, and notes what there
// should be then.
func (k *soak) give(lines ...string) {
	k.t.Helper()
	k.gate.Lock()
	defer k.gate.Unlock()
	if out := k.restore(strings.Join(lines, "\n")+"\n", "ipvsadm -R"); out != "" {
		k.t.Errorf("%s: ipvsadm -R: %s", k.said, out)
	}
	for _, line := range lines {
		k.noteTold(line)
	}
}

// noteTold notes what a command changes.
func (k *soak) noteTold(line string) {
	words := strings.Fields(line)
	of := strings.Join(words[1:3], " ")
	drop := func(prefix string) {
		maps.DeleteFunc(k.told, func(l string, _ bool) bool { return strings.HasPrefix(l+" ", prefix+" ") })
	}
	switch words[0] {
	case "-D":
		drop("-A " + of)
		drop("-a " + of)
	case "-d":
		drop("-a " + of + " " + strings.Join(words[3:5], " "))
	case "-e":
		drop("-a " + of + " " + strings.Join(words[3:5], " "))
		k.told["-a"+line[2:]] = true
	default:
		k.told[line] = true
	}
}

// forgetTold is what there should be when a daemon has begun with the rules alone.
func (k *soak) forgetTold() {
	clear(k.told)
	clear(k.unsure)
	for _, line := range soakRules(k.plane) {
		k.told[line] = true
	}
}

// listed are the lines of ipvsadm -Sn.
func (k *soak) listed() map[string]bool {
	k.t.Helper()
	lines := map[string]bool{}
	for line := range strings.Lines(k.must("ipvsadm -Sn")) {
		lines[strings.TrimSpace(line)] = true
	}
	return lines
}

// serviceOf is the service that a line of -Sn is about.
func serviceOf(line string) string { return strings.Join(strings.Fields(line)[1:3], " ") }

// asTold compares what there is with what commands were told.
func (k *soak) asTold() {
	k.t.Helper()
	k.gate.Lock()
	defer k.gate.Unlock()
	is := k.listed()
	if len(k.unsure) > 0 {
		maps.DeleteFunc(k.told, func(l string, _ bool) bool { return k.unsure[serviceOf(l)] })
		for line := range is {
			if k.unsure[serviceOf(line)] {
				k.told[line] = true
			}
		}
		clear(k.unsure)
	}
	var bad []string
	for line := range k.told {
		if !is[line] {
			bad = append(bad, "missing: "+line)
		}
	}
	for line := range is {
		if !k.told[line] {
			bad = append(bad, "too many: "+line)
		}
	}
	if len(bad) > 0 {
		slices.Sort(bad)
		k.t.Errorf("%s: services are not as they were made:\n%s", k.said, strings.Join(bad[:min(len(bad), 20)], "\n"))
		k.told = is
	}
}

// tidy leaves the services that are always there, with the weights that they began with.
func (k *soak) tidy() {
	k.t.Helper()
	k.asTold()
	base := soakRules(k.plane)
	var lines []string
	k.gate.Lock()
	for _, line := range slices.Sorted(maps.Keys(k.told)) {
		always := slices.ContainsFunc(base, func(l string) bool { return serviceOf(l) == serviceOf(line) })
		switch {
		case always && strings.HasPrefix(line, "-a") && !slices.Contains(base, line):
			lines = append(lines, "-e"+strings.TrimRight(line[2:], "0123456789")+"1")
		case !always && strings.HasPrefix(line, "-A"):
			lines = append(lines, "-D "+serviceOf(line))
		}
	}
	k.gate.Unlock()
	if len(lines) > 0 {
		k.give(lines...)
	}
	k.asTold()
}

// command gives commands beside the events, a service's life at a time, until the load
// ends. What is not answered may have been carried out.
func (k *soak) command() {
	for n := 0; ; n++ {
		select {
		case <-k.load.end:
			return
		case <-time.After(300 * time.Millisecond):
		}
		k.commandStep(&n)
	}
}

// commandStep is the n-th command beside the events.
func (k *soak) commandStep(n *int) {
	k.gate.RLock() // nobody else changes what was told meanwhile
	defer k.gate.RUnlock()
	service := fmt.Sprintf("-t %s:%d", floodVIP, 2000+*n/4%50)
	add := "-A " + service + " -s rr"
	if *n%4 > 0 && !k.told[add] { // somebody tidied up
		*n |= 3
		return
	}
	if *n%4 == 0 && k.told[add] { // it was left when a daemon ended
		*n |= 3
	}
	line := []string{add, soakServer(service, 0, 1), "-e" + soakServer(service, 0, 7)[2:], "-D " + service}[*n%4]
	out, err := k.tryCommand("ipvsadm " + line)
	k.load.commanded(line, out, err)
	if err == nil {
		k.noteTold(line)
		return
	}
	k.unsure[service] = true
	_, _ = k.tryCommand("ipvsadm -D " + service)
	*n |= 3 // the next one's life begins
}

// tryCommand carries out a command that may fail, as there may be no daemon.
func (k *soak) tryCommand(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	words := strings.Fields(line)
	c := k.director.Command(ctx, k.program(), words[1:]...)
	c.Args[0] = words[0]
	c.Dir = k.dir
	c.Env = append(os.Environ(), "ULVS_CONTROL="+filepath.Join(k.dir, "ulvs.sock"))
	out, err := c.CombinedOutput()
	return string(out), errors.Join(err, ctx.Err())
}
