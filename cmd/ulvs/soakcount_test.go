package main

import (
	"fmt"
	"maps"
	"net"
	"strconv"
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
type soakCounts struct{ conns, packets int }

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
// what services and their servers list, which is brought up to date every two seconds.
func (k *soak) atRest() (sent int, services, servers [3]soakCounts) {
	k.t.Helper()
	for began, same := time.Now(), 0; same < 3; time.Sleep(2 * time.Second) {
		was, wasSent := services, sent
		sent = k.load.sentSegments()
		for i, port := range soakPorts {
			services[i], servers[i] = k.listedCounts(port)
		}
		if same++; was != services || wasSent != sent {
			same = 0
		}
		if time.Since(began) > patience {
			k.t.Errorf("%s: counts go on though nobody sends", k.said)
			break
		}
	}
	return sent, services, servers
}

// minus is by how much counts have grown.
func (c soakCounts) minus(was soakCounts) soakCounts {
	return soakCounts{c.conns - was.conns, c.packets - was.packets}
}

// counted looks whether counters agree: what clients send is what their services count, and
// what a service counts is the sum of its servers'. Before that they need not: what a real
// server that was deleted, and is there again, has counted may come a round after ipvsadm -Z
// (ip_vs_stop_estimator), and a packet may have been counted in part by a daemon that was
// killed.
func (k *soak) counted() {
	k.t.Helper()
	const exchanges, clients = 5, 20
	sent, services, servers := k.atRest()
	for _, c := range k.load.flows {
		for range exchanges {
			_, _ = exchange(c, patience) // what ended is judged elsewhere
		}
	}
	sentThen, servicesThen, _ := k.atRest()
	want := sentThen - sent
	if n := servicesThen[0].minus(services[0]).packets; n != want || n < exchanges*len(k.load.flows) {
		k.t.Errorf("%s: the connections that stay sent %d packets, %d are counted", k.said, want, n)
	}
	for i := range clients * len(soakPorts) {
		_, _ = k.load.client(soakPorts[i%len(soakPorts)])
	}
	_, servicesNow, serversNow := k.atRest()
	for i, port := range soakPorts {
		if n := servicesNow[i].minus(servicesThen[i]).conns; n != clients {
			k.t.Errorf("%s: port %d: %d connections were opened, %d are counted", k.said, port, clients, n)
		}
		if a, b := servicesNow[i].minus(services[i]), serversNow[i].minus(servers[i]); a != b {
			k.t.Errorf("%s: port %d: the service counts %+v, its servers %+v", k.said, port, a, b)
		}
	}
	k.listedConnections()
}

// soakActive are the states in which a connection is active (tcp_state_active_table).
var soakActive = map[string]bool{"ESTABLISHED": true, "SYN_SENT": true, "SYN_RECV": true}

// listedConnections looks whether each connection that stays is listed as established, and
// whether status and the columns of real servers count as many as are listed.
func (k *soak) listedConnections() {
	k.t.Helper()
	var columns, listed map[string]int // active connections by service and server
	var before, after map[string]int
	connections, templates := 0, 0
	established := map[string]bool{}
	look := func() bool { // half-open ones end meanwhile
		before = k.status()
		columns, listed = map[string]int{}, map[string]int{}
		connections, templates = 0, 0
		for line := range strings.Lines(k.must("ipvsadm -Lnc")) {
			words := strings.Fields(line)
			if len(words) != 6 || words[0] == "pro" {
				continue
			}
			if strings.HasSuffix(words[3], ":0") {
				templates++
				continue
			}
			connections++
			established[words[3]] = words[2] == "ESTABLISHED"
			if soakActive[words[2]] {
				listed[words[4]+" "+words[5]]++
			}
		}
		service := ""
		for line := range strings.Lines(k.must("ipvsadm -Ln")) {
			words := strings.Fields(line)
			switch {
			case len(words) > 1 && words[0] == "TCP":
				service = words[1]
			case len(words) == 6 && words[0] == "->" && words[4] != "0" && words[4] != "ActiveConn" && service != "":
				n, _ := strconv.Atoi(words[4])
				columns[service+" "+words[1]] = n
			case len(words) > 1 && words[0] == "UDP":
				service = ""
			}
		}
		after = k.status()
		return before["connections"] == connections && before["templates"] == templates && maps.Equal(columns, listed)
	}
	for began := time.Now(); !look(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > patience {
			k.t.Errorf("%s: %d connections and %d templates are listed, active %v; status counts %d and %d before, %d and %d after, columns %v",
				k.said, connections, templates, listed, before["connections"], before["templates"], after["connections"], after["templates"], columns)
			break
		}
	}
	for _, c := range k.load.flows {
		if !established[c.LocalAddr().String()] {
			k.t.Errorf("%s: the connection from %v is not listed as established", k.said, c.LocalAddr())
		}
	}
}
