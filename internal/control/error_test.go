package control_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// identities are the errors that a caller can ask for.
var identities = map[string]error{
	"ErrServiceExists":     ulvs.ErrServiceExists,
	"ErrNoService":         ulvs.ErrNoService,
	"ErrDestinationExists": ulvs.ErrDestinationExists,
	"ErrNoDestination":     ulvs.ErrNoDestination,
	"ErrNoScheduler":       ulvs.ErrNoScheduler,
	"ErrInvalid":           ulvs.ErrInvalid,
	"ErrRange":             ulvs.ErrRange,
	"ErrUnsupported":       ulvs.ErrUnsupported,
	"ErrUnreachable":       ulvs.ErrUnreachable,
	"ErrNoAnswer":          ulvs.ErrNoAnswer,
	"ErrPermission":        ulvs.ErrPermission,
}

// An error that is added to ulvs has to find its way into the protocol.
func TestEveryErrorIsTested(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, 0)
	must(t, err)
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if strings.HasPrefix(name.Name, "Err") {
					found++
					if identities[name.Name] == nil {
						t.Errorf("ulvs.%s is not in identities", name.Name)
					}
				}
			}
		}
		return true
	})
	if found != len(identities) {
		t.Errorf("%d errors are declared, %d tested", found, len(identities))
	}
}

// broken is a director that fails with one error whatever it is asked.
type broken struct{ err error }

func (b *broken) Version() (string, int, error) { return "", 0, b.err }
func (b *broken) AddService(ulvs.Service) error { return b.err }
func (b *broken) Batch(changes []ulvs.Change, answer func(int, error) bool) error {
	for i := 0; b.err == nil && i < len(changes) && answer(i, nil); i++ {
	}
	return b.err
}
func (b *broken) EditService(ulvs.Service) error                            { return b.err }
func (b *broken) DeleteService(ulvs.ServiceKey) error                       { return b.err }
func (b *broken) Clear() error                                              { return b.err }
func (b *broken) AddDestination(ulvs.ServiceKey, ulvs.Destination) error    { return b.err }
func (b *broken) EditDestination(ulvs.ServiceKey, ulvs.Destination) error   { return b.err }
func (b *broken) DeleteDestination(ulvs.ServiceKey, netip.AddrPort) error   { return b.err }
func (b *broken) Services() ([]ulvs.ServiceStatus, error)                   { return nil, b.err }
func (b *broken) Total() (ulvs.Total, error)                                { return ulvs.Total{}, b.err }
func (b *broken) Service(ulvs.ServiceKey) (s ulvs.ServiceStatus, err error) { return s, b.err }
func (b *broken) Conns(func(ulvs.ConnStatus) bool) error                    { return b.err }
func (b *broken) Zero(ulvs.ServiceKey) error                                { return b.err }
func (b *broken) ZeroAll() error                                            { return b.err }
func (b *broken) Timeouts() (t ulvs.Timeouts, err error)                    { return t, b.err }
func (b *broken) SetTimeouts(ulvs.Timeouts) error                           { return b.err }
func (b *broken) MarkCommand(bool, []string) (string, error)                { return "", b.err }
func (b *broken) MarkSave(bool) (string, error)                             { return "", b.err }
func (b *broken) MarkRestore(bool, string) error                            { return b.err }
func (b *broken) Sysctl(string) (int, error)                                { return 0, b.err }
func (b *broken) SetSysctl(string, int) error                               { return b.err }
func (b *broken) Sysctls() (map[string]int, error)                          { return nil, b.err }
func (b *broken) Facts() ([]ulvs.Fact, error)                               { return nil, b.err }
func (b *broken) Counters() (map[string]uint64, error)                      { return nil, b.err }

// verbs is one call of each verb: those of the session.
func verbs() map[string]step {
	m := map[string]step{}
	for _, s := range session() {
		if s.do != nil {
			m[s.verb] = s
		}
	}
	return m
}

// Every verb's error comes through with its text, and is what it was.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	b := &broken{}
	client, _, _ := serve(t, b)
	all := verbs()
	for name, e := range identities {
		if e == ulvs.ErrUnreachable || e == ulvs.ErrNoAnswer {
			continue // only a client has these
		}
		for verb, s := range all {
			b.err = fmt.Errorf("outside: %w: -t 192.0.2.1:80 \"<&>\" %% ü\n\tsecond line", e)
			_, err := s.do(client)
			if err == nil || err.Error() != b.err.Error() {
				t.Errorf("%s, %s: text %q, want %q", verb, name, err, b.err)
			}
			for other, x := range identities {
				if errors.Is(err, x) != (x == e) {
					t.Errorf("%s, %s: errors.Is %s: %v", verb, name, other, x != e)
				}
			}
		}
	}
	for verb, s := range all {
		b.err = errors.New("the afpacket plane cannot keep the host from the service's packets")
		_, err := s.do(client)
		if err == nil || err.Error() != b.err.Error() {
			t.Errorf("%s: %v", verb, err)
		}
		for name, x := range identities {
			if errors.Is(err, x) {
				t.Errorf("%s: an error of no kind became %s", verb, name)
			}
		}
	}
}

// listing is a director whose connections are what f says.
type listing struct {
	broken
	f func(yield func(ulvs.ConnStatus) bool) error
}

func (l *listing) Conns(yield func(ulvs.ConnStatus) bool) error { return l.f(yield) }

var aConn = ulvs.ConnStatus{
	Protocol: ulvs.TCP, Client: netip.MustParseAddrPort("10.1.1.1:1000"), Virtual: netip.MustParseAddrPort(web),
	Dest: netip.MustParseAddrPort("192.168.10.200:80"), State: "ESTABLISHED", Expires: 899 * time.Second,
}

// A list of connections that breaks off is an error, never a short list.
func TestConnsBreakOff(t *testing.T) {
	l := &listing{}
	client, path, _ := serve(t, l)
	for name, e := range identities {
		if e == ulvs.ErrUnreachable || e == ulvs.ErrNoAnswer {
			continue
		}
		fails := fmt.Errorf("%w: half way", e)
		l.f = func(yield func(ulvs.ConnStatus) bool) error {
			for range 3 {
				yield(aConn)
			}
			return fails
		}
		list, err := conns(client)
		if !errors.Is(err, e) || err.Error() != fails.Error() {
			t.Errorf("%s: became %v", name, err)
		}
		if d := diff([]ulvs.ConnStatus{aConn, aConn, aConn}, list); d != "" {
			t.Errorf("%s: -want +got:\n%s", name, d)
		}
	}
	l.f = func(yield func(ulvs.ConnStatus) bool) error {
		for range 100 {
			yield(aConn)
		}
		panic(http.ErrAbortHandler) // the daemon dies
	}
	if list, err := conns(client); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("cut off: %d connections, error %v", len(list), err)
	}
}

// A client that has seen enough ends the daemon's work for it too.
func TestConnsStopReachesDirector(t *testing.T) {
	stopped := make(chan int, 1)
	client, _, _ := serve(t, &listing{f: func(yield func(ulvs.ConnStatus) bool) error {
		n := 0
		for yield(aConn) {
			n++
		}
		stopped <- n
		return nil
	}})
	n := 0
	must(t, client.Conns(func(s ulvs.ConnStatus) bool {
		n++
		return n < 5
	}))
	if n != 5 {
		t.Errorf("yielded %d times", n)
	}
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Error("the director goes on listing")
	}
}

// unreachable checks that every verb says that there is no daemon, and what to do.
func unreachable(t *testing.T, path string) {
	t.Helper()
	for verb, s := range verbs() {
		_, err := s.do(control.Dial(path))
		if !errors.Is(err, ulvs.ErrUnreachable) || errors.Is(err, ulvs.ErrPermission) {
			t.Fatalf("%s: %v", verb, err)
		}
		for _, part := range []string{"no ulvs daemon", path, `"ulvs run"`, "--control", "ULVS_CONTROL"} {
			if !strings.Contains(err.Error(), part) {
				t.Fatalf("%s: %q does not say %s", verb, err, part)
			}
		}
	}
}
