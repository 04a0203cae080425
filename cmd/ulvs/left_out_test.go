package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What a text of mark rules has that is not for ulvs is said: of a file in the log, of a
// restore on standard error.
func TestLeftOut(t *testing.T) {
	s := newSite(t)
	const rules = "*nat\nCOMMIT\n*mangle\n-A PREROUTING -p tcp --dport 80 -j MARK --set-mark 1\n-A FORWARD -j MARK --set-mark 2\nCOMMIT\n"
	file := filepath.Join(s.dir, "marks")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	d := s.start("--interface", "eth0", "--marks", file)
	d.Stderr.(*said).await(t, `level=INFO msg="a mark rule is left out, as no packet of IPVS passes it" file=`+file+
		` rule="-A FORWARD -j MARK --set-mark 2"`)
	const want = "iptables-restore: ulvs has taken the rules of mangle; not for it: table nat\n" +
		"iptables-restore: left out, as no packet of IPVS passes it: -A FORWARD -j MARK --set-mark 2\n"
	if out, code := s.ulvs(rules, "iptables-restore"); code != 0 || out != want {
		t.Errorf("exit %d: %q, want %q", code, out, want)
	}
}
