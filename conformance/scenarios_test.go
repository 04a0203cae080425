package conformance

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestScenarios plays all recorded scenarios against the daemon and wants the
// kernel's answers. The long ones are played once with the VIP on the
// director's interface, once with the VIP nowhere, where the daemon has to
// answer ARP for it, and once on the XDP plane; the quick ones on each plane, and once more through
// the bridge. Without -kernel each of these is played on the XDP plane with sockets or without, or on
// TCX, one by turns, and there through the bridge: what it hands on, on whatever plane, is one daemon's.
func TestScenarios(t *testing.T) {
	shares := wantedShares()
	quick := quickUlvs(buildUlvs(t), "afpacket")
	plain := Ulvs{Binary: quick.Subject.(Ulvs).Binary}
	onInterface := &Theatre{Subject: plain}
	onXDP := shares.of(AFXDP, &Theatre{Subject: Ulvs{Binary: plain.Binary, Plane: AFXDP}})
	nowhere := &Theatre{Subject: plain, Options: Options{NoVIP: true}}
	var rounds []*round
	// The longest first.
	for _, name := range []string{
		"persist-controlled", "persist-expiry", "seed-pcc", "rr-basic", "seed-ppc", "seed-fwm",
	} {
		r := readRecording(t, name+".txt")
		rounds = append(rounds,
			&round{name: name + "/vip-on-interface", Recording: r, as: onInterface, compare: Compare},
			&round{name: name + "/vip-nowhere", Recording: r, as: nowhere, compare: Compare})
		if mayBPF() {
			rounds = append(rounds, &round{name: name + "/" + AFXDP, Recording: r, as: onXDP, compare: Compare})
		}
	}
	// These send nothing.
	for _, name := range []string{"cli-errors", "save-restore"} {
		rounds = append(rounds, &round{name: name, Recording: readRecording(t, name+".txt"), as: onInterface, compare: Compare})
	}
	planes := map[string]*Theatre{"afpacket": quick}
	_, missing := os.Stat(debianIPVSAdm)
	bridges := missing == nil && mayBPF()
	switch {
	case bridges && *kernelFlag:
		planes[bridged] = quickUlvs(plain.Binary, bridged)
	case !bridges:
		t.Log("without the bridge: it needs root, and Debian's ipvsadm")
	}
	if mayBPF() {
		planes["xdp"] = shares.of("xdp", quickUlvs(plain.Binary, "xdp"))
		planes[AFXDP] = shares.of(AFXDP, quickUlvs(plain.Binary, AFXDP))
		planes[TCX] = quickUlvs(plain.Binary, TCX)
	} else {
		t.Log("without the XDP plane: BPF needs root")
	}
	all, byTurns := recordings(t), []string{"xdp", AFXDP, TCX}
	if bridges && !*kernelFlag {
		for _, plane := range byTurns {
			planes[plane] = bridgedTo(planes[plane])
		}
	}
	for _, file := range slices.Sorted(maps.Keys(all)) {
		if name, ok := strings.CutSuffix(file, ".txt"+QuickSuffix); ok {
			r := all[file]
			if _, err := exec.LookPath(Exporter); err != nil && strings.Contains(r.Source, "\n"+Exporter+"\n") {
				t.Logf("without %s: %v", name, err)
				continue
			}
			asRecorded := r
			if different, err := os.ReadFile(filepath.Join(differenceDir, name+".txt")); err == nil {
				r.Answers = strings.Split(strings.TrimSuffix(string(different), "\n"), "\n")
			}
			byTurns = append(byTurns[1:], byTurns[0])
			for plane, theatre := range planes {
				if slices.Contains(byTurns[1:], plane) && !*kernelFlag {
					continue
				}
				of := r
				if plane == TCX && slices.Contains(asKernelOnTCX, name) {
					of = asRecorded
				}
				rounds = append(rounds, &round{name: plane + "/" + name, Recording: of, as: theatre, compare: CompareNear})
			}
		}
	}
	if testing.Short() {
		rounds = fewOf(rounds)
	}
	replay(t, rounds)
	shares.print()
}

// asKernelOnTCX are scenarios that are answered on TCX as by the kernel, and otherwise elsewhere: the host does not
// see there what is forwarded.
var asKernelOnTCX = []string{"v6-authentication"}

// fewOf are one in twenty rounds: under the race detector the player is on trial, as the daemon is built without it.
func fewOf(rounds []*round) (few []*round) {
	for i := 0; i < len(rounds); i += 20 {
		few = append(few, rounds[i])
	}
	return few
}

// bridgedTo is a theatre whose daemons are spoken to by Debian's ipvsadm.
func bridgedTo(as *Theatre) *Theatre {
	u := as.Subject.(Ulvs)
	u.Bridged = debianIPVSAdm
	return &Theatre{Subject: u, Options: as.Options}
}

// TestKnownDifferences wants each scenario of which ulvs's own answers are recorded to be
// answered otherwise by the kernel, and DIFFERENCES.md to name it.
func TestKnownDifferences(t *testing.T) {
	text, err := os.ReadFile("../DIFFERENCES.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(differenceDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		ours, err := os.ReadFile(filepath.Join(differenceDir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		r, err := loadRecording(scenarioDir, f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if CompareNear(r.Answers, strings.Split(strings.TrimSuffix(string(ours), "\n"), "\n")) == "" {
			t.Errorf("%s: the kernel answers as ulvs does: it is no difference any more", f.Name())
		}
		if !strings.Contains(string(text), strings.TrimSuffix(f.Name(), ".txt")) {
			t.Errorf("DIFFERENCES.md does not name the scenario %s", f.Name())
		}
	}
}

// mayBPF reports whether this process may load programs: in a user namespace it
// may not.
func mayBPF() bool {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return false
	}
	return m.Close() == nil
}

// buildUlvs builds the program. It looks at the module's folders itself first,
// or go test would repeat a cached result after the program has changed: it
// knows only what the test's own process has read.
func buildUlvs(t *testing.T) string {
	t.Helper()
	err := filepath.WalkDir("..", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "ulvs")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/ulvs")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build ulvs: %v\n%s", err, out)
	}
	return binary
}
