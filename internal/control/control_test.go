package control_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

const (
	web   = "192.168.10.101:80"
	names = "192.168.10.101:53"
	web6  = "[fd00:10::101]:80"
)

// step is one call of a verb.
type step struct {
	verb string
	do   func(c ulvs.Control) (any, error)
}

func change(verb string, f func(c ulvs.Control) error) step {
	return step{verb, func(c ulvs.Control) (any, error) { return nil, f(c) }}
}

func look[T any](verb string, f func(c ulvs.Control) (T, error)) step {
	return step{verb, func(c ulvs.Control) (any, error) { return f(c) }}
}

func addService(s ulvs.Service) step {
	return change("AddService", func(c ulvs.Control) error { return c.AddService(s) })
}

func addDest(k ulvs.ServiceKey, d ulvs.Destination) step {
	return change("AddDestination", func(c ulvs.Control) error { return c.AddDestination(k, d) })
}

func mark(ipv6 bool, args ...string) step {
	return look("MarkCommand", func(c ulvs.Control) (string, error) { return c.MarkCommand(ipv6, args) })
}

// batch is several changes at once, and what became of each.
func batch(changes ...ulvs.Change) step {
	return look("Batch", func(c ulvs.Control) (answers []string, err error) {
		err = c.Batch(changes, func(n int, err error) bool {
			answers = append(answers, fmt.Sprint(n, " ", err))
			for _, name := range slices.Sorted(maps.Keys(identities)) {
				if errors.Is(err, identities[name]) {
					answers = append(answers, "which is "+name)
				}
			}
			return true
		})
		return answers, err
	})
}

type version struct {
	Text string
	Size int
}

// session is every verb, with good and bad arguments.
func session() []step {
	mark10, mark6 := ulvs.ServiceKey{Mark: 10}, ulvs.ServiceKey{Mark: 10, IPv6: true}
	looks := []step{
		look("Services", ulvs.Control.Services),
		look("Total", ulvs.Control.Total),
		look("Service", func(c ulvs.Control) (ulvs.ServiceStatus, error) { return c.Service(tcp(web)) }),
		look("Service", func(c ulvs.Control) (ulvs.ServiceStatus, error) { return c.Service(mark6) }),
		look("Timeouts", ulvs.Control.Timeouts),
		look("Sysctls", ulvs.Control.Sysctls),
		look("Sysctl", func(c ulvs.Control) (int, error) { return c.Sysctl("sloppy_tcp") }),
		look("Sysctl", func(c ulvs.Control) (int, error) { return c.Sysctl("no_such") }),
		look("Counters", ulvs.Control.Counters),
		look("Facts", ulvs.Control.Facts),
		look("MarkSave", func(c ulvs.Control) (string, error) { return c.MarkSave(false) }),
		look("MarkSave", func(c ulvs.Control) (string, error) { return c.MarkSave(true) }),
		look("Version", func(c ulvs.Control) (version, error) {
			text, size, err := c.Version()
			return version{text, size}, err
		}),
		look("Conns", func(c ulvs.Control) ([]ulvs.ConnStatus, error) {
			list, err := conns(c)
			slices.SortFunc(list, func(a, b ulvs.ConnStatus) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			return list, err
		}),
	}
	all := slices.Concat(looks, []step{
		addService(ulvs.Service{ServiceKey: tcp(web), Scheduler: "rr"}),
		addService(ulvs.Service{ServiceKey: tcp(web), Scheduler: "wrr"}), // exists
		addService(ulvs.Service{ServiceKey: key(ulvs.UDP, names), Scheduler: "wlc", Persistence: ulvs.Persistence{
			Timeout: 300 * time.Second, Netmask: netip.MustParseAddr("255.255.255.0")}}),
		addService(ulvs.Service{ServiceKey: tcp(web6)}),
		addService(ulvs.Service{ServiceKey: mark10, Scheduler: "wrr", SchedFlags: 1}),
		addService(ulvs.Service{ServiceKey: mark6, Scheduler: "rr", OnePacket: true}),
		addService(ulvs.Service{ServiceKey: tcp("192.168.10.101:81"), Scheduler: "no_such"}),
		addService(ulvs.Service{}),
		addDest(tcp(web), dest("192.168.10.200:80", 1)),
		addDest(tcp(web), ulvs.Destination{Addr: netip.MustParseAddr("192.168.10.201"), Port: 80, Weight: 1<<31 - 1,
			UpperThreshold: 1<<32 - 1, LowerThreshold: 7}),
		addDest(tcp(web), dest("192.168.10.201:80", 2)), // exists
		addDest(tcp(web), dest("192.168.10.202:80", -1)),
		addDest(tcp(web), dest("224.0.0.1:80", 1)),
		addDest(tcp("192.168.10.101:81"), dest("192.168.10.200:81", 1)), // no service
		addDest(key(ulvs.UDP, names), dest("192.168.10.203:53", 1)),
		addDest(tcp(web6), dest("[fd00:10::201]:80", 1)),
		addDest(mark10, ulvs.Destination{Addr: netip.MustParseAddr("192.168.10.202"), Weight: 3, Forward: ulvs.Tunnel,
			TunnelType: ulvs.GUE, TunnelPort: 6080, TunnelFlags: ulvs.TunnelRemoteChecksum}),
		addDest(mark6, ulvs.Destination{Addr: netip.MustParseAddr("fd00:10::202"), Weight: 3, Forward: ulvs.Masquerade}),
	}, looks, []step{
		{"traffic", nil},
	}, looks, []step{
		change("Zero", func(c ulvs.Control) error { return c.Zero(tcp(web)) }),
		change("Zero", func(c ulvs.Control) error { return c.Zero(tcp("192.168.10.101:81")) }),
	}, looks, []step{
		change("ZeroAll", ulvs.Control.ZeroAll),
		change("EditService", func(c ulvs.Control) error {
			return c.EditService(ulvs.Service{ServiceKey: tcp(web), Scheduler: "wlc", Persistence: ulvs.Persistence{Timeout: time.Minute}})
		}),
		change("EditService", func(c ulvs.Control) error { return c.EditService(ulvs.Service{ServiceKey: tcp("192.168.10.101:81")}) }),
		change("EditDestination", func(c ulvs.Control) error { return c.EditDestination(tcp(web), dest("192.168.10.200:80", 0)) }),
		change("EditDestination", func(c ulvs.Control) error { return c.EditDestination(tcp(web), dest("192.168.10.209:80", 0)) }),
		change("DeleteDestination", func(c ulvs.Control) error {
			return c.DeleteDestination(tcp(web), netip.MustParseAddrPort("192.168.10.201:80"))
		}),
		change("DeleteDestination", func(c ulvs.Control) error { return c.DeleteDestination(tcp(web), netip.AddrPort{}) }),
		change("DeleteService", func(c ulvs.Control) error { return c.DeleteService(mark10) }),
		change("DeleteService", func(c ulvs.Control) error { return c.DeleteService(mark10) }),
		change("SetTimeouts", func(c ulvs.Control) error {
			return c.SetTimeouts(ulvs.Timeouts{TCP: time.Hour, UDP: 7 * time.Second})
		}),
		change("SetTimeouts", func(c ulvs.Control) error { return c.SetTimeouts(ulvs.Timeouts{TCPFin: -1}) }),
		change("SetSysctl", func(c ulvs.Control) error { return c.SetSysctl("sloppy_tcp", 1) }),
		change("SetSysctl", func(c ulvs.Control) error { return c.SetSysctl("no_such", 1) }),
		mark(false, "-t", "mangle", "-A", "PREROUTING", "-d", "192.168.10.102", "-p", "tcp", "-j", "MARK", "--set-mark", "10"),
		mark(true, "-t", "mangle", "-A", "PREROUTING", "-d", "fd00:10::102", "-j", "MARK", "--set-mark", "10"),
		mark(false, "-t", "mangle", "-S"),
		mark(false, "-t", "mangle", "-A", "PREROUTING", "-j", "NO_SUCH"), // bad words
		mark(false, "-t", "mangle", "-D", "PREROUTING", "9"),             // no such rule
		change("MarkRestore", func(c ulvs.Control) error {
			return c.MarkRestore(true, "*mangle\n-A PREROUTING -d fd00:10::103/128 -j MARK --set-xmark 0xa/0xffffffff\nCOMMIT\n")
		}),
		change("MarkRestore", func(c ulvs.Control) error { return c.MarkRestore(true, "*mangle\n<nonsense> & more\n") }),
		batch(everyChange(tcp("192.168.10.101:82"), dest("192.168.10.200:82", 1))...),
		batch(ulvs.Change{Verb: "nonsense"}, ulvs.Change{Verb: ulvs.VerbAddService},
			ulvs.Change{Verb: ulvs.VerbAddService, Service: ulvs.Service{ServiceKey: tcp(web)}}),
	}, looks, []step{
		change("Clear", ulvs.Control.Clear),
	}, looks)
	return all
}

// everyChange is each change that there is, by its verb.
func everyChange(k ulvs.ServiceKey, d ulvs.Destination) []ulvs.Change {
	s := ulvs.Service{ServiceKey: k, Scheduler: "rr"}
	other := d
	other.Weight = 7
	return []ulvs.Change{
		{Verb: ulvs.VerbAddService, Service: s}, {Verb: ulvs.VerbAddDestination, Key: k, Destination: d},
		{Verb: ulvs.VerbEditService, Service: s}, {Verb: ulvs.VerbEditDestination, Key: k, Destination: other},
		{Verb: ulvs.VerbZero, Key: k}, {Verb: ulvs.VerbZeroAll}, {Verb: ulvs.VerbSetTimeouts, Timeouts: ulvs.Timeouts{TCP: time.Minute}},
		{Verb: ulvs.VerbDeleteDestination, Key: k, Destination: d}, {Verb: ulvs.VerbDeleteService, Key: k}, {Verb: ulvs.VerbClear},
		{Verb: ulvs.VerbAddService, Service: s}, {Verb: ulvs.VerbAddDestination, Key: k, Destination: d},
	}
}

func traffic(b *bed) {
	for i := range 300 {
		b.open(ulvs.TCP, fmt.Sprintf("10.1.%d.%d:%d", i/250, i%250+1, 1000+i), web)
	}
	for i := range 20 {
		b.open(ulvs.UDP, fmt.Sprintf("10.2.%d.1:5353", i), names)
		b.open(ulvs.TCP, fmt.Sprintf("[fd00:1::%x]:2000", i+1), web6)
	}
	b.plane.Advance(3 * time.Second)
	b.Tick(b.plane.Now())
}

// Two directors have the same session, one through the socket, one directly:
// each verb answers the same, and they end the same.
func TestVerbs(t *testing.T) {
	remote, direct := newBed(t), newBed(t)
	client, _, _ := serve(t, remote)
	called, failed, listed := map[string]bool{}, 0, 0
	for i, s := range session() {
		if s.do == nil {
			traffic(remote)
			traffic(direct)
			continue
		}
		called[s.verb] = true
		got, gotErr := s.do(client)
		want, wantErr := s.do(direct)
		if d := diff(want, got); d != "" {
			t.Fatalf("step %d, %s (-direct +socket):\n%s", i, s.verb, d)
		}
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
			t.Fatalf("step %d, %s: %v, want %v", i, s.verb, gotErr, wantErr)
		}
		for name, e := range identities {
			if errors.Is(gotErr, e) != errors.Is(wantErr, e) {
				t.Errorf("step %d, %s: %v: %s is lost or made up", i, s.verb, gotErr, name)
			}
		}
		if wantErr != nil {
			failed++
		}
		if list, ok := got.([]ulvs.ConnStatus); ok {
			listed = max(listed, len(list))
		}
	}
	verbs := reflect.TypeFor[ulvs.Control]()
	for i := range verbs.NumMethod() {
		if name := verbs.Method(i).Name; !called[name] {
			t.Errorf("%s was not called", name)
		}
	}
	// 300 and twice 20 connections, 20 templates.
	if failed < 15 || listed != 360 {
		t.Errorf("%d verbs failed, %d connections: the test does not test", failed, listed)
	}
}

// Connections come in the director's order, and no more of them than the
// caller wants.
func TestConns(t *testing.T) {
	b := newBed(t)
	client, _, _ := serve(t, b)
	if list, err := conns(client); err != nil || len(list) != 0 {
		t.Errorf("of none: %v, %v", list, err)
	}
	for _, s := range session() {
		if s.verb == "AddService" || s.verb == "AddDestination" {
			_, _ = s.do(b) // some are wrong
		}
	}
	traffic(b)
	want, err := conns(b)
	must(t, err)
	got, err := conns(client)
	must(t, err)
	if d := diff(want, got); d != "" || len(want) != 360 {
		t.Fatalf("%d connections; -direct +socket:\n%s", len(want), d)
	}
	for _, stop := range []int{1, 2, 359, 360} {
		var some []ulvs.ConnStatus
		err := client.Conns(func(s ulvs.ConnStatus) bool {
			some = append(some, s)
			return len(some) < stop
		})
		if d := diff(want[:stop], some); d != "" || err != nil {
			t.Errorf("stopped after %d: %v\n%s", stop, err, d)
		}
	}
	if _, _, err := client.Version(); err != nil {
		t.Errorf("after stopping: %v", err)
	}
}

// Two clients at once, and packets.
func TestTwoClients(t *testing.T) {
	b := newBed(t)
	first, path, _ := serve(t, b)
	must(t, first.AddService(ulvs.Service{ServiceKey: tcp(web), Scheduler: "rr"}))
	must(t, first.AddDestination(tcp(web), dest("192.168.10.200:80", 1)))
	var wg sync.WaitGroup
	for id, c := range []*control.Client{first, control.Dial(path)} {
		wg.Go(func() {
			for i := range 20 {
				k := tcp(fmt.Sprintf("192.168.11.%d:%d", id, 1000+i))
				_, listErr := conns(c)
				_, lookErr := c.Services()
				if err := errors.Join(
					c.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}),
					c.AddDestination(k, dest(fmt.Sprintf("192.168.10.%d:%d", 200+i%4, 1000+i), 1)),
					listErr, lookErr,
				); err != nil {
					t.Errorf("client %d: %v", id, err)
				}
				if i%2 == 0 {
					if err := c.DeleteService(k); err != nil {
						t.Errorf("client %d: %v", id, err)
					}
				}
			}
		})
	}
	for i := range 250 {
		b.open(ulvs.TCP, fmt.Sprintf("10.1.1.1:%d", 1000+i), web)
	}
	wg.Wait()
	list, err := b.Services()
	must(t, err)
	got, err := conns(first)
	must(t, err)
	if len(list) != 1+2*10 || len(got) != 250 {
		t.Errorf("%d services and %d connections", len(list), len(got))
	}
}
