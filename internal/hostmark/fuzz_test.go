package hostmark

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/lab"
)

var capture = flag.Bool("capture", false, "write what this kernel says of the golden files' rules into testdata/fuzz")

// sound holds the outcome of whatever input to what is promised of it.
func sound(t *testing.T, v4, v6 firewall) {
	t.Helper()
	r := resolveBoth(v4, v6)
	for i, list := range [][]fwmark.Rule{r.V4, r.V6} {
		if err := fwmark.NewTable(i == 1).SetRules(list); err != nil {
			t.Error(err)
		}
	}
	for _, s := range r.Unfollowed {
		if s == "" {
			t.Error("a rule without text is not followed")
		}
	}
}

// A table of iptables-legacy, as getsockopt gives it out.
func FuzzLegacy(f *testing.F) {
	f.Add([]byte{}, uint32(0), uint32(0), false)
	f.Fuzz(func(t *testing.T, entries []byte, first, underrun uint32, ipv6 bool) {
		b := &blob{ipv6: ipv6, first: first, underrun: underrun, inputFirst: underrun, inputUnderrun: first, entries: entries}
		same := *b
		same.entries = bytes.Clone(entries)
		if !b.equal(&same) {
			t.Error("differs from itself")
		}
		w, err := assemble(&ruleset{}, ipv6, b, false)
		if err == nil && ipv6 {
			sound(t, firewall{}, w)
		} else if err == nil {
			sound(t, w, firewall{})
		}
	})
}

// The data of a match or a target of iptables.
func FuzzModule(f *testing.F) {
	f.Add("tcp", uint8(0), []byte{})
	f.Fuzz(func(t *testing.T, name string, revision uint8, data []byte) {
		_, _ = decodeMatch(name, revision, data)
		w := &walker{scratch: fwmark.NewTable(false), iptables: true, chain: "PREROUTING"}
		w.module(name, revision, data)
		w.target(name, revision, data)
		w.mark(1, 1)
		sound(t, firewall{bases: []chain{{steps: []step{w.step("1", "", "")}}}, table: []string{""}}, firewall{})
	})
}

// The expressions of a rule of nftables, as netlink attributes.
func FuzzExpressions(f *testing.F) {
	f.Add([]byte{}, false, false)
	set := &nftSet{flags: unix.NFT_SET_ANONYMOUS | unix.NFT_SET_INTERVAL, elements: []element{
		{key: []byte{0, 0}, end: true}, {key: []byte{0, 80}}, {key: []byte{0, 90}, end: true}, {key: []byte{1, 0}},
		{key: []byte{192, 0, 2, 1, 0, 80, 0, 0}, last: []byte{192, 0, 2, 9, 0, 90, 0, 0}}, {verdict: &verdict{code: nftJump, chain: "x"}},
	}}
	f.Fuzz(func(t *testing.T, attrs []byte, ipv6, iptables bool) {
		w := &walker{
			condition: condition{ipv6: ipv6}, iptables: iptables, chain: "PREROUTING", scratch: fwmark.NewTable(ipv6),
			sets: func(name string) *nftSet {
				if name == "" {
					return nil
				}
				return set
			},
		}
		for _, e := range decodeExpressions(attrs) {
			w.expression(e)
		}
		w.mark(1, 1)
		wall := firewall{ipv6: ipv6, bases: []chain{{steps: []step{w.step("1", "ip t c", "")}}}, table: []string{""}}
		if ipv6 {
			sound(t, firewall{}, wall)
		} else {
			sound(t, wall, firewall{})
		}
	})
}

// TestCapture writes the corpus: what the kernel gives out for the golden
// files' commands. Without -capture it holds the committed corpus to being
// there.
func TestCapture(t *testing.T) {
	if !*capture {
		for _, name := range []string{"FuzzLegacy", "FuzzModule", "FuzzExpressions"} {
			if files, _ := filepath.Glob("testdata/fuzz/" + name + "/kernel-*"); len(files) < 10 {
				t.Errorf("%s has %d captured inputs", name, len(files))
			}
		}
		return
	}
	for _, name := range []string{"iptables", "legacy", "nft"} {
		b, err := os.ReadFile("testdata/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(strings.TrimSpace(string(b)), "\n\n") {
			captureCase(t, fmt.Sprintf("%s-%d", name, i), part)
		}
	}
}

func captureCase(t *testing.T, name, part string) {
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := l.Add(lab.HostConfig{Name: "director"})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(part) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "=") {
			continue
		}
		args := []string{"-c", line}
		if strings.HasPrefix(line, "nft ") {
			args[1] = "nft '" + strings.ReplaceAll(line[4:], `\"`, `"`) + "'"
		}
		if out, err := h.Command(t.Context(), "sh", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", line, err, out)
		}
	}
	seen := map[string]bool{}
	write := func(fuzz string, values ...any) {
		text := "go test fuzz v1\n"
		for _, v := range values {
			switch v := v.(type) {
			case []byte:
				text += fmt.Sprintf("[]byte(%q)\n", v)
			case byte:
				text += fmt.Sprintf("byte('\\x%02x')\n", v)
			default:
				text += fmt.Sprintf("%T(%#v)\n", v, v)
			}
		}
		if seen[text] {
			return
		}
		seen[text] = true
		file := fmt.Sprintf("testdata/fuzz/%s/kernel-%s-%d", fuzz, name, len(seen))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	modules := func(expressions []expression) {
		for _, e := range expressions {
			if e.name == "match" || e.name == "target" {
				write("FuzzModule", text(e.data[unix.NFTA_MATCH_NAME]), uint8(be32(e.data[unix.NFTA_MATCH_REV])), e.data[unix.NFTA_MATCH_INFO])
			}
		}
	}
	err = h.Do(func() error {
		r, err := newReader(nil)
		if err != nil {
			return err
		}
		defer r.close()
		if _, err := r.readTables(); err != nil {
			return err
		}
		for _, b := range r.last {
			if b != nil {
				write("FuzzLegacy", b.entries, b.first, b.underrun, b.ipv6)
			}
		}
		return r.nft.get(unix.NFT_MSG_GETRULE, true, 0, nil, func(family uint8, a map[uint16][]byte) error {
			write("FuzzExpressions", bytes.Clone(a[unix.NFTA_RULE_EXPRESSIONS]), family == unix.NFPROTO_IPV6, text(a[unix.NFTA_RULE_TABLE]) == "mangle")
			modules(decodeExpressions(bytes.Clone(a[unix.NFTA_RULE_EXPRESSIONS])))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}
