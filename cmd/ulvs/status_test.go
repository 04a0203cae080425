package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The screen of ulvs status, whole: every counter that a daemon has is explained.
func TestStatus(t *testing.T) {
	s := newPinSite(t)
	s.run("--plane", "xdp", "--af-xdp", "on")
	s.serve()
	s.send(s.frame(1, 80, "S", 1))
	s.got(1, 1) // what comes while Go makes the connection goes by AF_PACKET
	s.send(s.frame(1, 80, "A", 2))
	s.got(2, 1) // the connection is established
	s.send(s.frame(1, 80, "PA", 3))
	s.got(3, 1)
	got := s.output("ulvs status --all")
	for _, vary := range [][2]string{
		{`pinned +\S+:`, "pinned DIR:"},
		{`program .*`, "program SIZE"},
		{`(?m)^  (rx_frames|rx_copies|rx_not_ours|passed|dropped|answers|tx_frames|states_by_plane) +\d+ +`, "  $1 N "}, // ARP and the like come when they like, and it looks
	} {
		got = regexp.MustCompile(vary[0]).ReplaceAllString(got, vary[1])
	}
	const golden = "testdata/status.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", golden, d)
	}
	for line := range strings.Lines(got) {
		if words := strings.Fields(line); strings.HasPrefix(line, "  ") && len(words) < 3 {
			t.Errorf("not explained: %s", line)
		}
	}
	if short := s.output("ulvs status"); !strings.Contains(short, "xdp_frames             2            forwarded by the XDP program") || strings.Contains(short, "drop_ttl") {
		t.Errorf("without --all:\n%s", short)
	}
}
