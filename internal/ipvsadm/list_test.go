package ipvsadm

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
)

// busyTable has numbers on both sides of every step of the listings.
func busyTable() *fakeControl {
	f := newFake()
	addr := netip.MustParseAddr
	f.services = []ulvs.ServiceStatus{
		{
			Service: ulvs.Service{
				ServiceKey:  ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: addr("192.168.10.101"), Port: 80},
				Scheduler:   "wlc",
				Persistence: ulvs.Persistence{Timeout: 300 * time.Second},
			},
			Stats: ulvs.Stats{Conns: 0, InPkts: 99999999, OutPkts: 100000000, InBytes: 999999999, OutBytes: 1000000000},
			Rate:  ulvs.Rate{CPS: 12345678, InPPS: 99999999999, OutPPS: 100000000000, InBPS: 99999999999999, OutBPS: 100000000000000},
			Destinations: []ulvs.DestinationStatus{
				{
					Destination: ulvs.Destination{Addr: addr("192.168.10.201"), Port: 80, Weight: 2147483647, UpperThreshold: 4294967295, LowerThreshold: 1},
					ActiveConns: 4294967295, InactConns: 7, PersistConns: 123456789,
					Stats: ulvs.Stats{Conns: 1 << 40, InPkts: 1<<32 + 1, OutPkts: 0, InBytes: 1<<64 - 1, OutBytes: 1},
					Rate:  ulvs.Rate{CPS: 1000000000, InPPS: 100000000, OutPPS: 0, InBPS: 125000000, OutBPS: 99999999},
				},
				{
					Destination: ulvs.Destination{Addr: addr("127.0.0.1"), Port: 80, Weight: 1, Forward: ulvs.Local},
					ActiveConns: 1,
				},
				{
					Destination: ulvs.Destination{Addr: addr("192.168.10.200"), Port: 80, Weight: -1, Forward: ulvs.Tunnel, TunnelType: ulvs.GUE, TunnelPort: 65535,
						TunnelFlags: ulvs.TunnelChecksum | ulvs.TunnelRemoteChecksum},
				},
			},
		},
		{
			Service: ulvs.Service{
				ServiceKey:  ulvs.ServiceKey{Protocol: 50, Addr: addr("fd00:1111:2222:3333:4444:5555:6666:7777"), Port: 65535},
				Scheduler:   "rr",
				Persistence: ulvs.Persistence{Timeout: 60 * time.Second, Netmask: addr("ffff:ffff:ffff:fff0::"), Engine: "sip"},
			},
			Destinations: []ulvs.DestinationStatus{{
				Destination: ulvs.Destination{Addr: addr("fd00:1111:2222:3333:4444:5555:6666:8888"), Port: 65535, Weight: 1, Forward: 9},
			}, {
				Destination: ulvs.Destination{Addr: addr("fd00::1"), Port: 65535, Weight: 1, Forward: ulvs.Tunnel, TunnelType: 9},
			}},
		},
	}
	f.conns = []ulvs.ConnStatus{
		{Protocol: 1, Client: netip.MustParseAddrPort("10.0.0.1:1"), Virtual: netip.MustParseAddrPort("10.0.0.2:2"), Dest: netip.MustParseAddrPort("10.0.0.3:3"),
			State: "NONE", Expires: -time.Second},
		{Protocol: ulvs.UDP, Client: netip.MustParseAddrPort("10.0.0.1:1"), Virtual: netip.MustParseAddrPort("10.0.0.2:2"), Dest: netip.MustParseAddrPort("10.0.0.3:3"),
			State: "UDP", Expires: 59999 * time.Millisecond, Template: true, Engine: "sip", EngineData: "call\x1b[31m-id second"},
		{Protocol: ulvs.UDP, Client: netip.MustParseAddrPort("10.0.0.1:1"), Virtual: netip.MustParseAddrPort("10.0.0.2:2"), Dest: netip.MustParseAddrPort("10.0.0.3:3"),
			State: "UDP", Expires: time.Minute, Template: true, Engine: "sip", EngineData: " \n"},
	}
	return f
}

// TestBusy checks what no recorded kernel had: counters, rates, connections in
// number. testdata/busy.txt follows the original's formats, by hand.
func TestBusy(t *testing.T) {
	want := readBusy(t)
	for _, args := range [][]string{
		{"-Ln"},
		{"-Ln", "--stats"},
		{"-Ln", "--stats", "--exact"},
		{"-Ln", "--rate"},
		{"-Ln", "--rate", "--exact"},
		{"-Ln", "--thresholds"},
		{"-Ln", "--persistent-conn"},
		{"-Ln", "--tun-info"},
		{"-Ln", "--nosort", "-t", "192.168.10.101:80"},
		{"-Sn"},
		{"-Lnc"},
		{"-Lnc", "--persistent-conn"},
	} {
		stdout, stderr, exit := runCommand(busyTable(), "", append([]string{"ipvsadm"}, args...))
		if exit != 0 || stderr != "" {
			t.Errorf("%q: exit %d, %q", args, exit, stderr)
		}
		key := "$ ipvsadm"
		for _, a := range args {
			key += " " + a
		}
		if stdout != want[key] {
			t.Errorf("%s\n%s\nwant:\n%s", key, stdout, want[key])
		}
	}
}

func readBusy(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/busy.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	key := ""
	for _, l := range splitLines(string(text)) {
		if l[0] == '$' {
			key = l[:len(l)-1]
			continue
		}
		out[key] += l
	}
	return out
}

func splitLines(s string) (out []string) {
	for start, i := 0, 0; i < len(s); i++ {
		if s[i] == '\n' {
			out = append(out, s[start:i+1])
			start = i + 1
		}
	}
	return out
}

// The table that Control gave stays as it is: it may be shared.
func TestListDoesNotSortTheTable(t *testing.T) {
	f := busyTable()
	runCommand(f, "", []string{"ipvsadm", "-Ln"})
	if got := f.services[0].Destinations[0].Addr.String(); got != "192.168.10.201" {
		t.Errorf("the first real server is now %s", got)
	}
}
