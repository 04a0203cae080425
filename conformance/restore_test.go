package conformance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRestore gives what ulvs saves to Debian's ipvsadm -R, on the kernel, and
// wants it saved there again, byte for byte. What ulvs saves is what Debian's
// saved of the same tables: TestScenarios, and TestDebianSaves in cmd/ulvs.
func TestRestore(t *testing.T) {
	if !*kernelFlag {
		t.Skip("the kernel is asked by: go test ./conformance -run TestRestore -kernel")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	theatre := quickUlvs(buildUlvs(t), "afpacket")
	defer func() {
		if err := theatre.Close(); err != nil {
			t.Error(err)
		}
	}()
	guest := bootGuest(ctx, t)
	scenarios, saved := make(map[string]string), make(map[string][]string)
	for name, r := range recordings(t) {
		if !strings.Contains(r.Source, "show -Sn") {
			continue
		}
		sc, err := ParseScenario(commandsOnly(r.Source) + "show -Sn\n")
		if err != nil {
			t.Fatal(err)
		}
		answers, err := theatre.Play(ctx, sc)
		if err != nil {
			t.Fatal(err)
		}
		table := lastSaved(answers)
		if len(table) == 0 {
			continue
		}
		// A quick director carries out its commands by ipvsadm -R.
		name = strings.TrimSuffix(name, QuickSuffix) + QuickSuffix
		saved[name] = table
		for _, rule := range table {
			scenarios[name] += "ipvsadm " + rule + "\n"
		}
		scenarios[name] += "show -Sn\n"
	}
	answers, err := guest.AskAll(ctx, scenarios)
	if err != nil {
		t.Error(err)
	}
	for name, table := range saved {
		d := Diff(table, lastSaved(answers[name]))
		if d != "" {
			// The kernel lists a service twice at times (seen once in some 300 tables):
			// what differs is asked again, as in TestRandom.
			t.Logf("%s: once more, because of:\n%s", name, d)
			again, err := guest.AskAll(ctx, map[string]string{name: scenarios[name]})
			if err != nil {
				t.Error(err)
			}
			answers[name] = again[name]
			d = Diff(table, lastSaved(answers[name]))
		}
		if d != "" {
			t.Errorf("%s: ulvs's (-), saved again by Debian's ipvsadm (+):\n%s\n%s", name, d, fmt.Sprint(answers[name]))
		}
	}
	if len(saved) < 20 {
		t.Errorf("%d tables, want twenty or more", len(saved))
	}
	t.Logf("%d tables", len(saved))
}

// commandsOnly is a scenario without its packets and pauses.
func commandsOnly(source string) string {
	var b strings.Builder
	for line := range strings.Lines(source) {
		if !strings.HasPrefix(line, "send ") && !strings.HasPrefix(line, "sleep ") && !strings.HasPrefix(line, "show ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// lastSaved is the last answer to ipvsadm -Sn.
func lastSaved(answers []string) (rules []string) {
	for _, line := range answers {
		switch rule, ok := strings.CutPrefix(line, "  "); {
		case !ok:
			rules = nil
		case rule != "":
			rules = append(rules, rule)
		}
	}
	return rules
}
