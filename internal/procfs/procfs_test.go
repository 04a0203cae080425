package procfs

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

var update = flag.Bool("update", false, "write the golden files")

// fake is a Source with something of each kind.
type fake struct {
	sysctls map[string]int
	err     error
}

func (f *fake) Version() (string, int, error) { return "1.2.1", 4096, f.err }
func (f *fake) Services() ([]ulvs.ServiceStatus, error) {
	addr := netip.MustParseAddr
	dest := func(a string, port uint16, weight int32, active, inactive uint32) ulvs.DestinationStatus {
		return ulvs.DestinationStatus{Destination: ulvs.Destination{Addr: addr(a), Port: port, Weight: weight},
			ActiveConns: active, InactConns: inactive}
	}
	key := func(p ulvs.Protocol, a string, port uint16) ulvs.ServiceKey {
		return ulvs.ServiceKey{Protocol: p, Addr: addr(a), Port: port}
	}
	return []ulvs.ServiceStatus{
		{Service: ulvs.Service{ServiceKey: key(ulvs.TCP, "192.0.2.1", 80), Scheduler: "wrr",
			Persistence: ulvs.Persistence{Timeout: 5 * time.Minute, Netmask: addr("255.255.255.0")}},
			Destinations: []ulvs.DestinationStatus{dest("198.51.100.1", 80, 0, 1, 2), dest("198.51.100.2", 80, 1<<31-1, 1<<32-1, 0)}},
		{Service: ulvs.Service{ServiceKey: key(ulvs.UDP, "192.0.2.1", 53), OnePacket: true}},
		{Service: ulvs.Service{ServiceKey: key(ulvs.SCTP, "2001:db8::1", 9), Scheduler: "rr",
			Persistence: ulvs.Persistence{Timeout: time.Minute, Netmask: addr("ffff:ffff:ffff:fff8::")}},
			Destinations: []ulvs.DestinationStatus{dest("2001:db8::2", 9, 1, 0, 0)}},
		{Service: ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10, IPv6: true}, Scheduler: "rr", OnePacket: true,
			Persistence: ulvs.Persistence{Timeout: time.Minute}}},
	}, f.err
}

func (f *fake) Conns(yield func(ulvs.ConnStatus) bool) error {
	at := netip.MustParseAddrPort
	for _, c := range []ulvs.ConnStatus{
		{Protocol: ulvs.TCP, Client: at("203.0.113.9:40000"), Virtual: at("192.0.2.1:80"), Dest: at("198.51.100.1:80"), State: "ESTABLISHED", Expires: 899*time.Second + 999*time.Millisecond},
		{Protocol: ulvs.UDP, Client: at("[2001:db8::9]:1"), Virtual: at("[2001:db8::1]:53"), Dest: at("[2001:db8::2]:53"), State: "UDP", Expires: -time.Second},
		{Client: at("203.0.113.0:0"), Virtual: at("0.0.0.10:0"), Dest: at("198.51.100.1:0"), State: "NONE", Expires: time.Hour, Template: true},
		{Protocol: ulvs.UDP, Client: at("203.0.113.9:0"), Virtual: at("192.0.2.1:5060"), Dest: at("198.51.100.1:5060"), State: "NONE", Expires: time.Minute,
			Template: true, Engine: "sip", EngineData: "call-1"},
	} {
		if !yield(c) {
			return nil
		}
	}
	return f.err
}

func (f *fake) Total() (ulvs.Total, error) {
	return ulvs.Total{Stats: ulvs.Stats{Conns: 5, InPkts: 15, InBytes: 655}, Rate: ulvs.Rate{CPS: 1, InPPS: 0xabc, InBPS: 1 << 40}}, f.err
}

func (f *fake) Sysctl(name string) (int, error) {
	n, is := f.sysctls[name]
	if !is {
		return 0, ulvs.ErrUnsupported
	}
	return n, f.err
}

func (f *fake) Sysctls() (map[string]int, error) { return f.sysctls, f.err }
func (f *fake) SetSysctl(name string, n int) error {
	f.sysctls[name] = n
	return nil
}

// Each file is as it is written here; conformance's scenario proc.txt holds the kernel's.
func TestFiles(t *testing.T) {
	from := &fake{sysctls: map[string]int{"drop_entry": 3, "amemthresh": -1}}
	for _, name := range append(Names(), Sysctls+"drop_entry", sysctlDir) {
		var text strings.Builder
		if err := Write(&text, name, from); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", strings.ReplaceAll(name, "/", "_")+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || text.String() != string(want) {
			t.Errorf("%s is not %s (%v):\n%s", name, file, err, text.String())
		}
	}
}

// full takes so many bytes, and then no more.
type full struct{ room int }

var errFull = errors.New("full")

func (f *full) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestErrors(t *testing.T) {
	from := &fake{sysctls: map[string]int{"drop_entry": 3}}
	for _, name := range []string{"", "net/ip_vs_app", "net/ip_vs/x", Sysctls, Sysctls + "nosuch", "sys/net/ipv4/ip_forward"} {
		if err := Write(new(full), name, from); !errors.Is(err, ulvs.ErrUnsupported) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range append(Names(), Sysctls+"drop_entry", sysctlDir) {
		if err := Write(new(full), name, from); !errors.Is(err, errFull) {
			t.Errorf("%s, into what is full: %v", name, err)
		}
		gone := errors.New("gone")
		if err := Write(new(strings.Builder), name, &fake{sysctls: from.sysctls, err: gone}); !errors.Is(err, gone) {
			t.Errorf("%s, of what is gone: %v", name, err)
		}
	}
}

// What is written is read as the kernel reads it: each of these was written into
// net.ipv4.conf.lo.tag of Linux 6.18.
func TestSet(t *testing.T) {
	for text, want := range map[string]int{"2\n": 2, " \t7 9": 7, "-1": -1, "0x10": 16, "010\n": 8, "2147483647": 1<<31 - 1, "3\tx": 3,
		"": 100, "-2147483648": -1 << 31, "0X1f": 31, "\v1": 1, "-0x5": -5, "1\n2": 1} {
		to := &fake{sysctls: map[string]int{"amemthresh": 100}}
		if err := Set(Sysctls+"amemthresh", text, to); err != nil || to.sysctls["amemthresh"] != want {
			t.Errorf("%q: %d, %v, want %d", text, to.sysctls["amemthresh"], err, want)
		}
	}
	to := &fake{sysctls: map[string]int{"amemthresh": 100}}
	for _, text := range []string{"\n", "x", "-2147483649", "4294967295", "1\x00", "1\v", "1\r\n", "08", "- 1", "0x", "   ", "00000000000000000000000000000001", "1x", "+1", "1_0", "2147483648", "--1", "0b1", "0o7", "1.5", "1e3"} {
		if err := Set(Sysctls+"amemthresh", text, to); !errors.Is(err, ulvs.ErrInvalid) || to.sysctls["amemthresh"] != 100 {
			t.Errorf("%q: %v, and it is %d", text, err, to.sysctls["amemthresh"])
		}
	}
	for _, name := range []string{"net/ip_vs", Sysctls + "nosuch", sysctlDir, "sys/net/ipv4/ip_forward"} {
		if err := Set(name, "1", to); !errors.Is(err, ulvs.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{"1", "-2 3", "0x1", "", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		to := &fake{sysctls: map[string]int{"a": 1 << 40}}
		err := Set(Sysctls+"a", text, to)
		if n := to.sysctls["a"]; (err == nil && text != "") != (n != 1<<40) || n != 1<<40 && int(int32(n)) != n {
			t.Errorf("%q: %v, and it is %d", text, err, n)
		}
	})
}
