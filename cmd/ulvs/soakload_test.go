package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	soakFlows = 60
	soakPace  = 100 * time.Millisecond // between exchanges of an established connection
	soakFresh = 15                     // clients a second
	// soakAgain is how many clients there may be after an event before one is served whose SYN
	// was not lost.
	soakAgain = 12
)

// soakLoad are the clients: connections that stay, and clients who come anew.
type soakLoad struct {
	*soak
	onWire  *tcpWatch
	flows   []net.Conn
	beats   []atomic.Int64 // exchanges of each; negative where it has ended
	end     chan bool
	running sync.WaitGroup
	// flowGate and freshGate are held to read during an exchange and a client's visit, and
	// to write by who needs that there is none.
	flowGate, freshGate sync.RWMutex

	mu               sync.Mutex
	event            string
	exchanges, came  int
	longest, slowest time.Duration // exchange, visit
	longestIn        string        // the event
	slowestIn        string
	lost             []string // connections that ended, visits that failed
	ended            int      // of the connections that stay
	noRoute          int      // visits that an interface's coming up cut short
	commands         int      // that were carried out
	refused          int      // as no daemon answered
}

// newSoakLoad opens the connections that stay, and has clients come.
func newSoakLoad(k *soak) *soakLoad {
	k.t.Helper()
	l := &soakLoad{soak: k, onWire: watchTCP(k.t, k.client, k.servers), end: make(chan bool)}
	keep := func(c net.Conn, err error) {
		k.t.Helper()
		if err == nil {
			k.t.Cleanup(func() { c.Close() })
			_, err = exchange(c, patience)
		}
		if err != nil {
			k.t.Fatal(err)
		}
		l.flows = append(l.flows, c)
	}
	for range soakFlows {
		keep(k.dialNew(patience))
	}
	for n := 0; k.far != nil && n < soakFarFlows; n++ {
		keep(k.dialFar(n))
	}
	l.beats = make([]atomic.Int64, len(l.flows))
	for i, c := range l.flows {
		l.running.Go(func() { l.stay(i, c) })
	}
	l.running.Go(l.comeAnew)
	k.t.Cleanup(sync.OnceFunc(func() {
		select {
		case <-l.end:
		default:
			close(l.end)
		}
	}))
	return l
}

// stay has a connection exchange until the load ends.
func (l *soakLoad) stay(i int, c net.Conn) {
	pause := time.Duration(i) * soakPace / soakFlows
	for {
		select {
		case <-l.end:
			return
		case <-time.After(pause):
		}
		l.flowGate.RLock()
		took, err := exchange(c, patience)
		l.flowGate.RUnlock()
		pause = max(0, soakPace-took)
		if l.beats[i].Add(1); err != nil {
			l.beats[i].Store(-1)
		}
		l.mu.Lock()
		l.exchanges++
		if took > l.longest {
			l.longest, l.longestIn = took, l.event
		}
		if err != nil {
			l.ended++
			l.lost = append(l.lost, fmt.Sprintf("%s: a connection from %v ended: %s", l.event, c.LocalAddr(), kind(err)))
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// exchangeAgain waits until each connection that stays has exchanged once more.
func (l *soakLoad) exchangeAgain(k *soak) {
	k.t.Helper()
	was := make([]int64, len(l.beats))
	for i := range l.beats {
		was[i] = l.beats[i].Load()
	}
	k.await("all connections that stay go on", func() bool {
		for i := range l.beats {
			if n := l.beats[i].Load(); n >= 0 && n < was[i]+2 { // one was under way
				return false
			}
		}
		return true
	})
}

// comeAnew has clients come to each service in turn, until the load ends.
func (l *soakLoad) comeAnew() {
	tick := time.NewTicker(time.Second / soakFresh)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-l.end:
			return
		case <-tick.C:
			l.onWire.forget()
			l.running.Go(func() {
				l.freshGate.RLock()
				defer l.freshGate.RUnlock()
				l.client(soakPorts[n%len(soakPorts)])
			})
		}
	}
}

// client comes anew: it connects, exchanges eight bytes and goes. again is how often it
// had to send something again.
func (l *soakLoad) client(port int) (again int, err error) {
	began := time.Now()
	c, err := l.dialPort(port, patience)
	if err == nil {
		_, err = exchange(c, patience)
		if info, e := tcpInfo(c.(*net.TCPConn)); e == nil {
			again = int(info.Total_retrans)
		}
		c.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came++
	took := time.Since(began)
	if took > l.slowest {
		l.slowest, l.slowestIn = took, l.event
	}
	if errors.Is(err, unix.EHOSTUNREACH) && strings.Contains(l.event, "interface down") {
		// The daemon hears that there is a route again a moment after the first frame.
		l.noRoute++
		return 1, nil
	}
	if err != nil {
		local := netip.AddrPort{}
		if e := (*net.OpError)(nil); errors.As(err, &e) && e.Source != nil {
			local = unmapped(e.Source)
		}
		l.lost = append(l.lost, fmt.Sprintf("%s: a client of port %d, that began %v before, failed: %s; on the wire of %v %s",
			l.event, port, took.Round(time.Millisecond), kind(err), local, l.onWire.said(local)))
	}
	return again, err
}

// during says what happens now.
func (l *soakLoad) during(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.event = event
}

// commanded notes how a command ended that was given beside the events.
func (l *soakLoad) commanded(line, out string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.commands++
		return
	}
	if !strings.Contains(out, "no ulvs daemon answers") && !strings.Contains(out, "did not answer") {
		l.lost = append(l.lost, fmt.Sprintf("%s: ipvsadm %s: %s", l.event, line, strings.TrimSpace(out)))
	}
	l.refused++
}

// served has clients come to each service until one's first SYN is enough.
func (l *soakLoad) served(k *soak) {
	k.t.Helper()
	for _, port := range soakPorts {
		for tries := 1; ; tries++ {
			again, err := l.client(port)
			if err != nil {
				break // judge has it
			}
			if again == 0 {
				break
			}
			if tries == soakAgain {
				k.t.Errorf("%s: after it %d clients of port %d in turn had to send their SYN again", k.said, tries, port)
				break
			}
		}
	}
}

// judge says what was lost since it was asked last.
func (l *soakLoad) judge(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range l.lost {
		t.Error(text)
	}
	l.lost = nil
}

// dead says that no connection is left that could be lost.
func (l *soakLoad) dead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended == len(l.flows)
}

// stop ends the load.
func (l *soakLoad) stop() {
	close(l.end)
	l.running.Wait()
}

func (l *soakLoad) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d connections: %d ended, %d exchanges, the longest %v in %s; %d clients, the slowest %v in %s; "+
		"%d in the moment in which an interface came up; %d commands beside the events, and %d while no daemon answered", len(l.flows), l.ended, l.exchanges,
		l.longest.Round(time.Millisecond), l.longestIn, l.came, l.slowest.Round(time.Millisecond), l.slowestIn,
		l.noRoute, l.commands, l.refused)
}
