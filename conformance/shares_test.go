package conformance

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// shares are who has opened the connections of scenarios, the XDP program or Go, by kind of
// service, and by what cause Go did.
type shares struct {
	mu     sync.Mutex
	kinds  map[string]ulvs.Opened
	family [2]ulvs.Opened // IPv4, IPv6
	causes map[string]uint64
}

func newShares() *shares {
	return &shares{kinds: map[string]ulvs.Opened{}, causes: map[string]uint64{}}
}

// watch is for Ulvs: what the daemon says is added to what earlier ones did. A daemon that does not
// answer is not this one's to judge.
func (s *shares) watch(socket string) (look func()) {
	d := control.Dial(socket)
	before, caused := map[ulvs.ServiceKey]ulvs.Opened{}, map[string]uint64{}
	return func() {
		list, err := d.Services()
		if err != nil {
			return
		}
		counters, err := d.Counters()
		if err != nil {
			return
		}
		before, caused = s.add(list, before, counters, caused), counters
	}
}

// add counts what has come since before, and returns what there is now.
func (s *shares) add(list []ulvs.ServiceStatus, before map[ulvs.ServiceKey]ulvs.Opened,
	counters, caused map[string]uint64) (now map[ulvs.ServiceKey]ulvs.Opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = map[ulvs.ServiceKey]ulvs.Opened{}
	barriers := uint64(0)
	for _, st := range list {
		now[st.ServiceKey] = st.Opened
		n := st.Opened
		if was := before[st.ServiceKey]; n.ByPlane >= was.ByPlane && n.InGo >= was.InGo { // or it is another
			n.ByPlane, n.InGo = n.ByPlane-was.ByPlane, n.InGo-was.InGo
		}
		if st.Addr == BarrierService.Addr() {
			barriers += n.InGo
			continue
		}
		kind, family := kindOf(st.Service), 0
		if st.Is6() {
			family = 1
		}
		s.kinds[kind], s.family[family] = sum(s.kinds[kind], n), sum(s.family[family], n)
	}
	for name, n := range counters {
		if cause, is := strings.CutPrefix(name, "opened_in_go_"); is {
			if n -= caused[name]; cause == "fragment" { // as half of the barriers are
				n -= min(n, barriers)
			}
			s.causes[cause] += n
		}
	}
	return now
}

func sum(a, b ulvs.Opened) ulvs.Opened {
	return ulvs.Opened{ByPlane: a.ByPlane + b.ByPlane, InGo: a.InGo + b.InGo}
}

// kindOf says in ipvsadm's words what kind of service it is.
func kindOf(s ulvs.Service) string {
	words := map[ulvs.Protocol]string{ulvs.TCP: "-t", ulvs.UDP: "-u", ulvs.SCTP: "--sctp"}[s.Protocol]
	if s.Mark != 0 {
		words = "-f"
	}
	words = fmt.Sprintf("%-6s -s %-5s", words, s.Scheduler)
	if s.Persistence.Timeout != 0 {
		words += " -p"
	}
	if s.Persistence.Engine != "" {
		words += " --pe " + s.Persistence.Engine
	}
	if s.OnePacket {
		words += " -o"
	}
	return words
}

// String is a table, and nothing where no program has opened any.
func (s *shares) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := sum(s.family[0], s.family[1])
	if all.ByPlane == 0 {
		return ""
	}
	var b strings.Builder
	line := func(n ulvs.Opened, of string) {
		if both := n.ByPlane + n.InGo; both > 0 {
			fmt.Fprintf(&b, "%8d %8d %6.1f %%  %s\n", n.ByPlane, n.InGo, 100*float64(n.ByPlane)/float64(both),
				strings.TrimRight(of, " "))
		}
	}
	fmt.Fprintf(&b, "%8s %8s %8s  %s\n", "program", "Go", "share", "connections of")
	for _, kind := range slices.Sorted(maps.Keys(s.kinds)) {
		line(s.kinds[kind], kind)
	}
	line(s.family[0], "IPv4")
	line(s.family[1], "IPv6")
	line(all, "all")
	b.WriteString("Go's by cause:")
	for _, cause := range slices.SortedFunc(maps.Keys(s.causes), func(a, b string) int {
		return cmp.Or(-cmp.Compare(s.causes[a], s.causes[b]), cmp.Compare(a, b))
	}) {
		if n := s.causes[cause]; n > 0 {
			fmt.Fprintf(&b, " %s %d", cause, n)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

// byPlane are the shares of each plane, where somebody wants to see them: by hand, or with -v.
type byPlane map[string]*shares

func wantedShares() byPlane {
	if !*kernelFlag && !testing.Verbose() {
		return nil
	}
	return byPlane{}
}

// of has a theatre's daemons be watched.
func (p byPlane) of(plane string, as *Theatre) *Theatre {
	if p == nil {
		return as
	}
	if p[plane] == nil {
		p[plane] = newShares()
	}
	u := as.Subject.(Ulvs)
	u.Watch = p[plane].watch
	return &Theatre{Subject: u, Options: as.Options}
}

// print prints the tables. go test shows that of a package in its own folder (make conformance),
// and with -v.
func (p byPlane) print() {
	for _, plane := range slices.Sorted(maps.Keys(p)) {
		if table := p[plane].String(); table != "" {
			fmt.Printf("who opened connections, on the plane %s:\n%s", plane, table)
		}
	}
}

// The table has a line for each kind of service that had connections, whatever became of it, and a
// plane that opens none has no table.
func TestShares(t *testing.T) {
	s := newShares()
	tcp := ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: DefaultVIP, Port: 80}, Scheduler: "rr"}
	mark := ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10, IPv6: true}, Scheduler: "lblcr", OnePacket: true,
		Persistence: ulvs.Persistence{Timeout: 300, Engine: "sip"}}
	barriers := ulvs.Service{ServiceKey: ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: BarrierService.Addr()}, Scheduler: "rr"}
	opened := func(s ulvs.Service, byPlane, inGo uint64) ulvs.ServiceStatus {
		return ulvs.ServiceStatus{Service: s, Opened: ulvs.Opened{ByPlane: byPlane, InGo: inGo}}
	}
	now := s.add([]ulvs.ServiceStatus{opened(tcp, 0, 5), opened(barriers, 9, 9)}, nil,
		map[string]uint64{"opened_in_go": 5, "opened_in_go_hop": 4, "opened_in_go_mark": 1, "opened_in_go_full": 0}, nil)
	if got := s.String(); got != "" {
		t.Errorf("a program that opened none: %s", got)
	}
	now = s.add([]ulvs.ServiceStatus{opened(tcp, 94, 6), opened(mark, 1, 1), opened(barriers, 9, 16)}, now,
		map[string]uint64{"opened_in_go": 7, "opened_in_go_hop": 5, "opened_in_go_mark": 2, "opened_in_go_fragment": 8},
		map[string]uint64{"opened_in_go": 5, "opened_in_go_hop": 4, "opened_in_go_mark": 1})
	tcp.Scheduler = "wlc" // deleted, and added again
	s.add([]ulvs.ServiceStatus{opened(tcp, 1, 0), opened(mark, 1, 1)}, now, nil, nil)
	const want = `
 program       Go    share  connections of
       1        1   50.0 %  -f     -s lblcr -p --pe sip -o
      94        6   94.0 %  -t     -s rr
       1        0  100.0 %  -t     -s wlc
      95        6   94.1 %  IPv4
       1        1   50.0 %  IPv6
      96        7   93.2 %  all
Go's by cause: hop 5 mark 2 fragment 1
`
	if got := "\n" + s.String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
