package director

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/sched"
)

var update = flag.Bool("update", false, "write the golden files anew")

// full is a record that has everything, and the words that it was made of.
func full() (command, ulvs.Service, ulvs.Destination, ulvs.Timeouts) {
	s := ulvs.Service{
		ServiceKey: ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 5060, Mark: 7, IPv6: true},
		Scheduler:  "mh", SchedFlags: sched.Flag1 | sched.Flag2, OnePacket: true,
		Persistence: ulvs.Persistence{Timeout: time.Minute, Netmask: netip.MustParseAddr("255.255.0.0"), Engine: "sip"},
	}
	dst := ulvs.Destination{
		Addr: netip.MustParseAddr("192.0.2.200"), Port: 5061, Forward: ulvs.Tunnel, Weight: 3, UpperThreshold: 9, LowerThreshold: 8,
		TunnelType: ulvs.GUE, TunnelPort: 6080, TunnelFlags: ulvs.TunnelRemoteChecksum,
	}
	timeouts := ulvs.Timeouts{TCP: time.Hour, TCPFin: time.Minute, UDP: time.Second}
	return command{
		Verb: "verb", Number: 1, Service: recordService(s), Key: recordKey(s.ServiceKey), Destination: recordDestination(dst),
		Addr: netip.MustParseAddrPort("[2001:db8::1]:80"), Timeouts: recordTimeouts(timeouts), Name: "name", Value: 2, Generation: 3, IPv6: true, Text: "text",
	}, s, dst, timeouts
}

// TestLayout: a change of the journal's records changes accel.Layout too, with which this
// file's name goes.
func TestLayout(t *testing.T) {
	c, _, _, _ := full()
	got, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", fmt.Sprintf("layout-%d.golden", accel.Layout))
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(got) != string(want) {
		t.Errorf("the journal's records are not %s (%v): change accel.Layout, and then run go test ./forward ./director -run Layout -update\n%s", file, err, got)
	}
}

// TestRecord: what is read from the journal is what was written.
func TestRecord(t *testing.T) {
	wrote, s, dst, timeouts := full()
	text, err := json.Marshal(wrote)
	if err != nil {
		t.Fatal(err)
	}
	var c command
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if got := c.Service.service(); got != s {
		t.Errorf("the service is %+v, want %+v", got, s)
	}
	if got := c.Destination.destination(); got != dst {
		t.Errorf("the real server is %+v, want %+v", got, dst)
	}
	if got := c.Timeouts.timeouts(); got != timeouts {
		t.Errorf("the timeouts are %+v, want %+v", got, timeouts)
	}
}
