package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ulvs/ulvs/packet"
)

// visit is a client who comes, is answered, and goes.
func (p *pair) visit() error {
	var c net.Conn
	err := p.client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", pairVIP+":80", pairPatience)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = exchange(c, pairPatience)
	return err
}

// come has clients come until stop is called.
func (p *pair) come() (stop func()) {
	end := make(chan bool)
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(pairEach)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				running.Go(func() {
					began := time.Now()
					p.visits.note(began, p.visit())
				})
			}
		}
	})
	return func() {
		close(end)
		running.Wait()
	}
}

// pairVisits are clients since a mark.
type pairVisits struct {
	mu   sync.Mutex
	from time.Time
	list []pairVisit
}

type pairVisit struct {
	began time.Time
	err   error
}

func (v *pairVisits) note(began time.Time, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !began.Before(v.from) {
		v.list = append(v.list, pairVisit{began, err})
	}
}

func (v *pairVisits) mark() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.from, v.list = time.Now(), nil
}

func (v *pairVisits) since() []pairVisit {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := slices.Clone(v.list)
	slices.SortFunc(list, func(a, b pairVisit) int { return a.began.Compare(b.began) })
	return list
}

// judge prints how clients fared, and looks at the limits.
func (p *pair) judge(what string, list []pairVisit) {
	p.t.Helper()
	kinds := map[string]int{}
	var first, last time.Time
	for _, v := range list {
		if v.err == nil {
			continue
		}
		kinds[kind(v.err)]++
		if first.IsZero() {
			first = v.began
		}
		last = v.began
	}
	failed := last.Sub(first)
	p.t.Logf("%s: %d clients, failed %v, for %v (limit %v)", what, len(list), kinds, failed.Round(10*time.Millisecond), pairLimit)
	if failed > pairLimit && p.plane != "" {
		p.t.Errorf("%s: clients failed for %v, the limit is %v", what, failed, pairLimit)
	}
}

// pairAnswers are who answered ARP for the address, one after the other.
type pairAnswers struct {
	mu   sync.Mutex
	list []string
}

// listen hears who answers ARP for the address, and asks twenty times a second.
func (p *pair) listen() {
	p.t.Helper()
	who := map[[6]byte]string{}
	for _, d := range p.directors {
		who[[6]byte(d.MAC())] = d.Name()
	}
	c := socketOn(p.t, p.client, "eth0")
	go func() {
		frame := make([]byte, 2048)
		var f packet.Packet
		for {
			n, _, err := c.ReadFrom(frame)
			if err != nil {
				return
			}
			if f.Parse(frame[:n]); f.Kind == packet.ARP && f.ARPOp == 2 && f.ARPSender.String() == pairVIP {
				p.answers.note(who[f.ARPSenderMAC])
			}
		}
	}()
	question, _ := packet.Question(netip.MustParseAddr(pairVIP), netip.Addr{}, [6]byte(p.client.MAC()))
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			_, _ = c.WriteTo(question, linkAddr(question))
			time.Sleep(50 * time.Millisecond)
		}
	}()
}

func (a *pairAnswers) note(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, name)
}

// runs are the answers with how many came in a row.
func (a *pairAnswers) runs() (names []string, counts []int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, name := range a.list {
		if i == 0 || name != a.list[i-1] {
			names, counts = append(names, name), append(counts, 0)
		}
		counts[len(counts)-1]++
	}
	return names, counts
}

func (a *pairAnswers) String() string {
	names, counts := a.runs()
	words := make([]string, len(names))
	for i := range names {
		words[i] = fmt.Sprintf("%s %d", names[i], counts[i])
	}
	return strings.Join(words, ", ")
}

// mixed is how often more directors answered in turn than there were changes of the master.
func (a *pairAnswers) mixed() int {
	names, _ := a.runs()
	const changes = 5
	return max(0, len(names)-1-changes)
}
