package main

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// quiet has the load wait, looks whether counters agree, and what the daemon holds.
func (k *soak) quiet() *soakMark {
	k.t.Helper()
	k.said = fmt.Sprintf("quiet (%v)", time.Since(k.began).Round(time.Second/10))
	k.load.during(k.said)
	k.gate.Lock()
	defer k.gate.Unlock()
	k.load.freshGate.Lock()
	defer k.load.freshGate.Unlock()
	k.load.flowGate.Lock()
	defer k.load.flowGate.Unlock()
	k.counted()
	m := &soakMark{time.Since(k.began), k.settledState()}
	k.note("%v", m)
	return m
}

// soakCounts is what is listed of a service.
type soakCounts struct{ conns, packets, active int }

// listedCounts are a service's counts, and the sum of its servers'.
func (k *soak) listedCounts(port int) (service, servers soakCounts) {
	k.t.Helper()
	of := fmt.Sprint(" -t ", floodVIP, ":", port)
	for line := range strings.Lines(k.must("ipvsadm -Ln --stats --exact" + of)) {
		var to string
		var c soakCounts
		if n, _ := fmt.Sscanf(line, "TCP %s %d %d", &to, &c.conns, &c.packets); n == 3 {
			service = c
		} else if n, _ := fmt.Sscanf(line, " -> %s %d %d", &to, &c.conns, &c.packets); n == 3 {
			servers.conns += c.conns
			servers.packets += c.packets
		}
	}
	for line := range strings.Lines(k.must("ipvsadm -Ln" + of)) {
		var to, method string
		var weight, active int
		if n, _ := fmt.Sscanf(line, " -> %s %s %d %d", &to, &method, &weight, &active); n == 4 {
			servers.active += active
		}
	}
	return service, servers
}

// sentSegments is how many segments the connections that stay have sent.
func (l *soakLoad) sentSegments() (n int) {
	for _, c := range l.flows {
		if info, err := tcpInfo(c.(*net.TCPConn)); err == nil {
			n += int(info.Segs_out)
		}
	}
	return n
}

// atRest waits until counts go on no more: what the connections that stay have sent, and
// what services list.
func (k *soak) atRest() (sent int, services [3]soakCounts) {
	k.t.Helper()
	for began, same := time.Now(), 0; same < 3; time.Sleep(50 * time.Millisecond) {
		was, wasSent := services, sent
		sent = k.load.sentSegments()
		for i, port := range soakPorts {
			services[i], _ = k.listedCounts(port)
		}
		if same++; was != services || wasSent != sent {
			same = 0
		}
		if time.Since(began) > patience {
			k.t.Errorf("%s: counts go on though nobody sends", k.said)
			break
		}
	}
	return sent, services
}

// counted looks whether counters agree: what clients send is what their services count, and
// a service's counts are the sum of its servers'.
func (k *soak) counted() {
	k.t.Helper()
	const exchanges, clients = 5, 20
	sent, before := k.atRest()
	for _, c := range k.load.flows {
		for range exchanges {
			_, _ = exchange(c, patience) // what ended is judged elsewhere
		}
	}
	sentThen, between := k.atRest()
	if n, want := between[0].packets-before[0].packets, sentThen-sent; n != want || n < exchanges*soakFlows {
		k.t.Errorf("%s: the connections that stay sent %d packets, %d are counted", k.said, want, n)
	}
	for i := range clients * len(soakPorts) {
		_, _ = k.load.client(soakPorts[i%len(soakPorts)])
	}
	_, after := k.atRest()
	for i, port := range soakPorts {
		if n := after[i].conns - between[i].conns; n != clients {
			k.t.Errorf("%s: port %d: %d connections were opened, %d are counted", k.said, port, clients, n)
		}
		service, servers := k.listedCounts(port)
		if service.conns != servers.conns || service.packets != servers.packets {
			k.t.Errorf("%s: port %d: the service counts %+v, its servers %+v", k.said, port, service, servers)
		}
		if port == soakPorts[0] && servers.active != soakFlows {
			k.t.Errorf("%s: %d connections are open, %d listed", k.said, soakFlows, servers.active)
		}
	}
	k.listedConnections()
}

// listedConnections looks whether each connection that stays is listed, as established, and
// whether as many are listed as status says.
func (k *soak) listedConnections() {
	k.t.Helper()
	lines := strings.Split(k.must("ipvsadm -Lnc"), "\n")
	established := map[string]bool{}
	connections := 0
	for _, line := range lines {
		if words := strings.Fields(line); len(words) == 6 {
			established[words[3]] = words[2] == "ESTABLISHED"
			if words[0] == "TCP" || words[0] == "UDP" {
				connections++
			}
		}
	}
	for _, c := range k.load.flows {
		if !established[c.LocalAddr().String()] {
			k.t.Errorf("%s: the connection from %v is not listed as established", k.said, c.LocalAddr())
		}
	}
	status := k.status()
	k.note("%d lines of connections and templates, status: %d connections, %d templates", connections, status["connections"], status["templates"])
}
