package control_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

var update = flag.Bool("update", false, "write the golden file anew")

// transcript answers as the daemon does and writes down what was said.
type transcript struct {
	h    http.Handler
	text bytes.Buffer
}

func (tr *transcript) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	said, err := io.ReadAll(r.Body)
	if err != nil {
		said = []byte(err.Error())
	}
	r.Body = io.NopCloser(bytes.NewReader(said))
	answer := httptest.NewRecorder()
	tr.h.ServeHTTP(answer, r)
	fmt.Fprintf(&tr.text, "%s %s", r.Method, r.URL.Path)
	if len(said) > 0 {
		fmt.Fprintf(&tr.text, " %s", said)
	}
	fmt.Fprintf(&tr.text, "\n%d %s\n%s\n", answer.Code, answer.Header().Get("Content-Type"), answer.Body)
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// specimen is a director that carries out everything and has one of each thing,
// every field set: what a director really has is not the protocol's matter.
type specimen struct{ broken }

var (
	aService = ulvs.Service{
		ServiceKey: tcp(web), Scheduler: "wrr", SchedFlags: 1, OnePacket: true,
		Persistence: ulvs.Persistence{Timeout: 300 * time.Second, Netmask: netip.MustParseAddr("255.255.255.0"), Engine: "sip"},
	}
	aDest = ulvs.Destination{
		Addr: netip.MustParseAddr("192.168.10.200"), Port: 80, Forward: ulvs.Tunnel, Weight: 3, UpperThreshold: 200, LowerThreshold: 100,
		TunnelType: ulvs.GUE, TunnelPort: 6080, TunnelFlags: ulvs.TunnelChecksum,
	}
	aMark = ulvs.ServiceKey{Mark: 10, IPv6: true}
)

func (*specimen) Version() (string, int, error) { return "1.2.1", 4096, nil }

func (*specimen) Service(ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	return ulvs.ServiceStatus{
		Service: aService, Stats: ulvs.Stats{Conns: 1, InPkts: 2, OutPkts: 3, InBytes: 4, OutBytes: 1<<64 - 1},
		Rate: ulvs.Rate{CPS: 5, InPPS: 6, OutPPS: 7, InBPS: 8, OutBPS: 9}, Opened: ulvs.Opened{ByPlane: 23, InGo: 24},
		Destinations: []ulvs.DestinationStatus{{
			Destination: aDest, ActiveConns: 10, InactConns: 11, PersistConns: 12,
			Stats: ulvs.Stats{Conns: 13, InPkts: 14, OutPkts: 15, InBytes: 16, OutBytes: 17},
			Rate:  ulvs.Rate{CPS: 18, InPPS: 19, OutPPS: 20, InBPS: 21, OutBPS: 22},
		}},
	}, nil
}

func (s *specimen) Services() ([]ulvs.ServiceStatus, error) {
	first, _ := s.Service(ulvs.ServiceKey{})
	return []ulvs.ServiceStatus{first, {Service: ulvs.Service{ServiceKey: aMark, Scheduler: "rr"}, Destinations: []ulvs.DestinationStatus{}}}, nil
}

func (*specimen) Conns(yield func(ulvs.ConnStatus) bool) error {
	_ = yield(aConn) && yield(ulvs.ConnStatus{
		Client: netip.MustParseAddrPort("[fd00:1::]:0"), Virtual: netip.MustParseAddrPort("[::a]:0"), Dest: netip.MustParseAddrPort("[fd00:10::201]:0"),
		State: "ASSURED", Expires: 4 * time.Millisecond, Template: true, Engine: "sip", EngineData: "call-id",
	})
	return nil
}

// Caution warns of one of the real servers.
func (*specimen) Caution(d ulvs.Destination) string {
	if d == aDest {
		return "no packet gets there"
	}
	return ""
}

func (*specimen) Timeouts() (ulvs.Timeouts, error) {
	return ulvs.Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}, nil
}
func (*specimen) MarkCommand(bool, []string) (string, error) { return "-P PREROUTING ACCEPT\n", nil }
func (*specimen) MarkSave(bool) (string, error)              { return "*mangle\nCOMMIT\n", nil }
func (*specimen) Sysctl(string) (int, error)                 { return -1, nil }
func (*specimen) Sysctls() (map[string]int, error) {
	return map[string]int{"sloppy_tcp": 1, "sloppy_sctp": 0}, nil
}
func (*specimen) Facts() ([]ulvs.Fact, error) {
	return []ulvs.Fact{{Name: "plane", Value: "xdp"}, {Name: "eth0", Value: "native"}}, nil
}
func (*specimen) Counters() (map[string]uint64, error) {
	return map[string]uint64{"tx": 2, "rx": 1}, nil
}

// The protocol, word for word. Tools other than ours speak it: a difference in
// the golden file is a change of the protocol, to be made on purpose only. Run
// with -update to write the file anew.
func TestWireFormat(t *testing.T) {
	director := &specimen{}
	tr := &transcript{h: control.Handler(director)}
	s := httptest.NewUnstartedServer(tr)
	path := filepath.Join(t.TempDir(), "sock")
	s.Listener.Close()
	s.Listener = listen(t, path)
	s.Start()
	defer s.Close()
	c := control.Dial(path)
	var warned []string
	c.Warned = func(text string) { warned = append(warned, text) }

	must(t, c.AddService(aService))
	must(t, c.EditService(ulvs.Service{ServiceKey: aMark, Scheduler: "rr"}))
	must(t, c.AddDestination(tcp(web), aDest))
	must(t, c.EditDestination(tcp(web6), ulvs.Destination{Addr: netip.MustParseAddr("fd00:10::200")}))
	must(t, c.DeleteDestination(tcp(web6), netip.MustParseAddrPort("[fd00:10::200]:80")))
	must(t, c.DeleteService(aMark))
	must(t, c.Clear())
	must(t, c.Zero(tcp(web)))
	must(t, c.ZeroAll())
	must(t, c.SetTimeouts(ulvs.Timeouts{TCP: time.Hour, UDP: time.Second}))
	must(t, c.MarkRestore(true, "*mangle\nCOMMIT\n"))
	must(t, c.SetSysctl("sloppy_tcp", 1))
	must(t, c.Batch(everyChange(tcp(web), aDest), func(int, error) bool { return true }))
	if want := slices.Repeat([]string{"no packet gets there"}, 3); !slices.Equal(warned, want) {
		t.Errorf("warned %q, want %q: of one command, and two of a batch", warned, want)
	}

	// What is looked at also has to come out as it went in.
	for _, l := range []step{
		look("Service", func(c ulvs.Control) (ulvs.ServiceStatus, error) { return c.Service(tcp(web)) }),
		look("Services", ulvs.Control.Services),
		look("Total", ulvs.Control.Total),
		look("Conns", conns),
		look("Timeouts", ulvs.Control.Timeouts),
		mark(true, "-t", "mangle", "-S"),
		look("MarkSave", func(c ulvs.Control) (string, error) { return c.MarkSave(false) }),
		look("Sysctl", func(c ulvs.Control) (int, error) { return c.Sysctl("sloppy_tcp") }),
		look("Sysctls", ulvs.Control.Sysctls),
		look("Counters", ulvs.Control.Counters),
		look("Facts", ulvs.Control.Facts),
		look("Version", func(c ulvs.Control) (version, error) {
			text, size, err := c.Version()
			return version{text, size}, err
		}),
	} {
		want, _ := l.do(director)
		got, err := l.do(c)
		if d := diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", l.verb, err, d)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(identities)) {
		director.err = fmt.Errorf("%w: %s", identities[name], name)
		_ = c.Clear()
	}

	const golden = "testdata/wire.golden"
	got := tr.text.String()
	if *update {
		must(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("the protocol is not what it was (-was +is):\n%s", d)
	}
}
