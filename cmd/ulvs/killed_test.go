package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/packet"
)

// A daemon that is killed in the middle of ten thousand connections loses none of
// their packets: not while there is none, and not when the next one takes over.
// What clients, services and schedulers had is as it was.
func TestKilled(t *testing.T) {
	k := &killed{pinSite: newPinSite(t), number: 1}
	first := k.run()
	k.configure()
	k.establish()
	k.look()
	l := k.load()
	l.carries(20000)
	_ = first.Process.Kill()
	_ = first.Wait()
	l.carries(20000) // without a daemon
	next := k.run()
	k.part("round robin goes on where it stood", k.roundRobin)
	l.carries(20000)
	k.part("no packet is lost, nor comes twice", func() { k.nothingLost(l) })
	k.part("services, marks, timeouts, sysctls and columns are as they were", k.asBefore)
	k.part("a client stays with its server, on its next connection", k.staysWithServer)
	k.part("every packet is counted, and XDP's are XDP's", k.everythingCounted)
	k.part("a daemon that is ended goes on forwarding, until it is detached", func() {
		k.stop(next)
		k.untilDetached()
	})
}

// killed is the course of TestKilled.
type killed struct {
	*pinSite
	number uint32 // of the next packet
	server []int  // of each flow
	turn   int    // the server that round robin chose last

	words, columns string // what commands showed before
	carried        int    // packets of the load
}

const killedFlows = 10000

func (k *killed) configure() {
	k.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s wrr -p 300
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g -w 3
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.201 -g -w 2
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.202 -g -w 1
		ipvsadm -A -t 192.168.10.101:81 -s rr
		ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.200 -g
		ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.201 -g
		ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.202 -g
		ipvsadm -A -t 192.168.10.101:82 -s rr
		ipvsadm -a -t 192.168.10.101:82 -r 192.168.10.201 -g
		ipvsadm -d -t 192.168.10.101:82 -r 192.168.10.201
		ipvsadm -D -t 192.168.10.101:82
		ipvsadm --set 600 100 200
		iptables -t mangle -A PREROUTING -d 192.168.10.102 -p tcp --dport 443 -j MARK --set-mark 10
		ipvsadm -A -f 10 -s rr -p 60
	`)
	if out, code := k.ulvs("", "ulvs", "sysctl", "net.ipv4.vs.expire_quiescent_template=1"); code != 0 {
		k.t.Fatal(out)
	}
}

// establish opens the flows, and one connection of the round robin service.
func (k *killed) establish() {
	for flow := range uint32(killedFlows) {
		k.send(k.frame(flow, 80, "S", k.number))
		k.send(k.frame(flow, 80, "A", k.number+1))
		k.number += 2
		if flow%100 == 99 {
			k.got(k.number-1, 1) // the slow path is not what is tried here
		}
	}
	k.server = make([]int, killedFlows)
	for i, at := range k.got(1, 2*killedFlows) {
		if i%2 == 0 {
			k.server[i/2] = at
		} else if k.server[i/2] != at {
			k.t.Fatalf("flow %d went to two servers", i/2)
		}
	}
	k.send(k.frame(1, 81, "S", k.number))
	k.turn = k.got(k.number, 1)[0]
	k.number++
}

// shown is what commands show of everything that was configured.
func (k *killed) shown() string {
	return k.output("ipvsadm -Sn") + k.output("iptables -t mangle -S") + k.output("ipvsadm -L --timeout") + k.output("ulvs sysctl")
}

func (k *killed) look() {
	k.words, k.columns = k.shown(), k.output("ipvsadm -Ln -t 192.168.10.101:80")
}

// killedLoad sends packets of the flows, 20,000 a second, until it is ended.
type killedLoad struct {
	*killed
	first uint32
	next  atomic.Uint32
	end   chan bool
	ended chan error
}

func (k *killed) load() *killedLoad {
	const pace = 50 * time.Microsecond
	l := &killedLoad{killed: k, first: k.number, end: make(chan bool), ended: make(chan error, 1)}
	l.next.Store(l.first)
	frames := make([][]byte, killedFlows)
	for flow := range frames {
		frames[flow] = k.frame(uint32(flow), 80, "PA", 0)
	}
	go func() {
		to := &packet.Addr{HardwareAddr: k.director.MAC()}
		due := time.Now()
		for {
			for _, f := range frames {
				select {
				case <-l.end:
					l.ended <- nil
					return
				default:
				}
				// The number is not part of the checksum that anybody looks at.
				binary.BigEndian.PutUint32(f[frameSize-4:], l.next.Load())
				if _, err := k.from.WriteTo(f, to); err != nil {
					l.ended <- err
					return
				}
				l.next.Add(1)
				if due = due.Add(pace); time.Until(due) > time.Millisecond {
					time.Sleep(time.Until(due))
				}
			}
		}
	}()
	return l
}

// carries waits until so many packets more were sent and have arrived.
func (l *killedLoad) carries(n uint32) {
	l.t.Helper()
	from := l.next.Load()
	for begin := time.Now(); l.next.Load()-from < n; time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			l.t.Fatalf("%d packets of %d were sent within %v", l.next.Load()-from, n, patience)
		}
	}
	l.got(from+n-1, 1)
}

// nothingLost ends the load, and looks for each of its packets at its flow's server.
func (k *killed) nothingLost(l *killedLoad) {
	close(l.end)
	if err := <-l.ended; err != nil {
		k.t.Error(err)
	}
	k.number = l.next.Load()
	k.carried = int(k.number - l.first)
	for i, at := range k.got(l.first, k.carried) {
		if want := k.server[i%killedFlows]; at != want {
			k.t.Fatalf("packet %d, of flow %d, went to server %d, not %d", i, i%killedFlows, at, want)
		}
	}
	if k.more > 0 {
		k.t.Errorf("%d packets came twice", k.more)
	}
}

func (k *killed) roundRobin() {
	k.send(k.frame(2, 81, "S", 1<<30))
	if at := k.got(1<<30, 1)[0]; at != (k.turn+2)%3 { // newest first: 202, 201, 200
		k.t.Errorf("after server %d round robin chose %d", k.turn, at)
	}
}

func (k *killed) asBefore() {
	if after := k.shown(); k.words != after {
		k.t.Errorf("before:\n%s\nafter:\n%s", k.words, after)
	}
	if now := k.output("ipvsadm -Ln -t 192.168.10.101:80"); now != k.columns {
		k.t.Errorf("before:\n%s\nafter:\n%s", k.columns, now)
	}
}

// killedClients is how many of the clients come again.
const killedClients = 30

func (k *killed) staysWithServer() {
	for flow := range uint32(killedClients) {
		f := k.frame(flow, 80, "S", 1<<30+1+flow)
		binary.BigEndian.PutUint16(f[34:], 2000)
		k.send(f)
		if at := k.got(1<<30+1+flow, 1)[0]; at != k.server[flow] {
			k.t.Errorf("client %d was with server %d, and is with %d", flow, k.server[flow], at)
		}
	}
}

func (k *killed) everythingCounted() {
	// Few are Go's: while the next daemon learns where a server is. The program may have had those
	// that opened connections, too.
	if n := k.status()["xdp_frames"]; n > k.carried+2*killedFlows+killedClients || n < k.carried-k.carried/1000 {
		k.t.Errorf("%d packets were forwarded by XDP, of %d", n, k.carried)
	}
	want := fmt.Sprintf("%d %d 0", killedFlows+killedClients, 2*killedFlows+k.carried+killedClients)
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		words := strings.Fields(strings.Split(k.output("ipvsadm -Ln --stats --exact -t 192.168.10.101:80"), "\n")[2])
		if strings.Join(words[2:5], " ") == want {
			return
		}
		if time.Since(begin) > patience {
			k.t.Fatalf("counted connections, packets and packets out: %v, not %s", words, want)
		}
	}
}

func (k *killed) untilDetached() {
	k.send(k.frame(7, 80, "PA", 1<<30+100))
	if at := k.got(1<<30+100, 1)[0]; at != k.server[7] {
		k.t.Errorf("after the daemon's end, server %d", at)
	}
	if out, code := k.ulvs("", "ulvs", "detach", "--pin", k.pins); code != 0 || out != "" {
		k.t.Errorf("detach: %s", out)
	}
	if left, _ := os.ReadDir(k.pins); len(left) > 0 {
		k.t.Errorf("detach left %v", left)
	}
	// What no program forwards gets to the host's stack.
	k.watch(len(k.servers), k.director)
	k.send(k.frame(7, 80, "PA", 1<<30+101))
	if at := k.got(1<<30+101, 1)[0]; at != len(k.servers) {
		k.t.Errorf("after detach, server %d", at)
	}
}
