package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
	"github.com/ulvs/ulvs/internal/lab"
)

// large is rules of so many services with so many real servers each.
func large(services, servers int) string {
	var text strings.Builder
	for i := range services {
		vip := fmt.Sprintf("10.200.%d.%d:80", i/250, i%250)
		fmt.Fprintf(&text, "-A -t %s -s rr\n", vip)
		for j := range servers {
			fmt.Fprintf(&text, "-a -t %s -r 10.201.%d.%d:80 -g -w 1\n", vip, i/250, j+1)
		}
	}
	return text.String()
}

// as is rules in the order in which ipvsadm -Sn has them.
func as(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A daemon starts with 10,000 services of nine real servers each, and the next one goes on
// with them when it is killed: its journal has grown.
func TestLarge(t *testing.T) {
	s := newPinSite(t)
	rules := filepath.Join(s.dir, "rules")
	text := large(10_000, 9)
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	first := s.run("--rules", rules)
	if got := s.output("ipvsadm -Sn"); as(got) != as(text) {
		t.Fatalf("there are %d lines of %d", strings.Count(got, "\n"), strings.Count(text, "\n"))
	}
	s.commands("ipvsadm -A -t 192.168.10.101:80 -s rr")
	_ = first.Process.Kill()
	_ = first.Wait()
	s.run("--rules", rules)
	if got := s.output("ipvsadm -Sn"); as(got) != as(text+"-A -t 192.168.10.101:80 -s rr\n") {
		t.Fatalf("after a kill there are %d lines of %d", strings.Count(got, "\n"), strings.Count(text, "\n")+1)
	}
}

// TestLoad judges times by the median of five: it is "make load".
func TestLoad(t *testing.T) {
	needsMachine(t)
	for _, plane := range []string{"afpacket", *fast} {
		t.Run(plane, func(t *testing.T) {
			l := &loaded{site: newSite(t), plane: plane}
			d := l.daemon()
			for _, c := range []struct {
				name              string
				services, servers int
				limit             time.Duration
			}{
				{"1,000 services", 1000, 0, time.Second},
				{"1,000 services of 10 servers", 1000, 10, 600 * time.Millisecond},
				{"10,000 services of 10 servers", 10_000, 10, 6 * time.Second},
			} {
				l.write(large(c.services, c.servers))
				l.judge(c.name+", ipvsadm -R", c.limit, l.restore)
			}
			alone := l.median(func() time.Duration { return l.clients(1, 2000) })
			l.judge("100 clients of 20 commands", alone, func() time.Duration { return l.clients(100, 20) })
			l.stop(d)
			l.judge("10,000 services of 10 servers, --rules", 6*time.Second, func() time.Duration {
				began := time.Now()
				d := l.daemon("--rules", l.rules)
				took := time.Since(began)
				l.stop(d)
				return took
			})
		})
	}
}

// loaded is a site whose commands are timed.
type loaded struct {
	*site
	plane, rules string
}

func (l *loaded) daemon(more ...string) *lab.Cmd {
	return l.start(append([]string{"--interface", "eth0", "--plane", l.plane}, more...)...)
}

func (l *loaded) write(text string) {
	l.rules = filepath.Join(l.dir, "rules")
	if err := os.WriteFile(l.rules, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l *loaded) median(f func() time.Duration) time.Duration {
	var all []time.Duration
	for range 5 {
		all = append(all, f())
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (l *loaded) judge(what string, limit time.Duration, f func() time.Duration) {
	took := l.median(f)
	l.t.Logf("%s: %v, at most %v", what, took.Round(time.Millisecond), limit.Round(time.Millisecond))
	if took > limit {
		l.t.Errorf("%s takes %v, more than %v", what, took.Round(time.Millisecond), limit.Round(time.Millisecond))
	}
}

// restore times ipvsadm -R of the rules, and clears the table.
func (l *loaded) restore() time.Duration {
	file, err := os.Open(l.rules)
	if err != nil {
		l.t.Fatal(err)
	}
	defer file.Close()
	c := l.director.Command(context.Background(), "/proc/self/exe", "-R")
	c.Args[0] = "ipvsadm"
	c.Stdin = file
	c.Env = append(os.Environ(), "ULVS_CONTROL="+filepath.Join(l.dir, "ulvs.sock"))
	began := time.Now()
	out, err := c.CombinedOutput()
	took := time.Since(began)
	if err != nil || len(out) > 0 {
		l.t.Fatalf("%v: %s", err, out)
	}
	if out, code := l.ulvs("", "ipvsadm", "-C"); code != 0 {
		l.t.Fatal(out)
	}
	return took
}

// clients times so many clients, each of which adds so many services one after the other.
func (l *loaded) clients(clients, commands int) time.Duration {
	socket := filepath.Join(l.dir, "ulvs.sock")
	var all sync.WaitGroup
	errs := make([]error, clients)
	began := time.Now()
	for i := range clients {
		all.Go(func() {
			c := control.Dial(socket)
			for j := range commands {
				n := i*commands + j
				k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.AddrFrom4([4]byte{10, 200, byte(n / 250), byte(n % 250)}), Port: 80}
				errs[i] = cmp.Or(errs[i], c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}))
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	for _, err := range errs {
		if err != nil {
			l.t.Fatal(err)
		}
	}
	if err := control.Dial(socket).Clear(); err != nil {
		l.t.Fatal(err)
	}
	return took
}
