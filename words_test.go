package ulvs_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

var shown = ulvs.ServiceStatus{
	Service: ulvs.Service{
		ServiceKey: ulvs.ServiceKey{Protocol: ulvs.UDP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 5060},
		Scheduler:  "sh", SchedFlags: sched.Flag2, OnePacket: true,
		Persistence: ulvs.Persistence{Timeout: 5 * time.Minute, Netmask: netip.MustParseAddr("255.255.0.0"), Engine: "sip"},
	},
	Stats: ulvs.Stats{Conns: 11, InPkts: 12, InBytes: 13},
	Rate:  ulvs.Rate{CPS: 14}, Opened: ulvs.Opened{ByPlane: 17},
	Destinations: []ulvs.DestinationStatus{{
		Destination: ulvs.Destination{Addr: netip.MustParseAddr("192.0.2.200"), Port: 5060, Weight: 15}, ActiveConns: 16,
	}},
}

// What is printed and logged of a service is everything, and not its key alone.
func TestShown(t *testing.T) {
	const service = "-u 192.0.2.1:5060 -s sh -p 300 -M 255.255.0.0 --pe sip -o -b flag-2"
	for _, format := range []string{"%v", "%+v", "%s"} {
		if got := fmt.Sprintf(format, shown.Service); got != service {
			t.Errorf("%s of a service: %s, want %s", format, got, service)
		}
		got := fmt.Sprintf(format, shown)
		for _, want := range []string{service, "Conns:11", "InPkts:12", "CPS:14", "192.0.2.200", "15", "16", "ByPlane:17"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s of a service's status is without %s: %s", format, want, got)
			}
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "status", shown, "service", shown.Service)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "status", shown, "service", shown.Service)
	for line := range strings.Lines(log.String()) {
		for _, want := range []string{"192.0.2.1:5060", "sh", "255.255.0.0", "sip", "11", "192.0.2.200", "16", "17"} {
			if !strings.Contains(line, want) {
				t.Errorf("logged without %s: %s", want, line)
			}
		}
	}
}
