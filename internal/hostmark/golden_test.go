package hostmark_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/hostmark"
	"github.com/ulvs/ulvs/internal/lab"
)

var update = flag.Bool("update", false, "write the answers of this kernel into testdata")

func TestMain(m *testing.M) {
	if code, ran, _ := lab.Unshare(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run()) // where namespaces are forbidden, tests skip and say so
}

// newHost is a network namespace. A test without rights or programs is skipped
// and says what it lacks.
func newHost(t testing.TB, programs ...string) *lab.Host {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%v: install Debian's packages iptables and nftables", err)
		}
	}
	l, err := lab.New(lab.Config{})
	if errors.Is(err, lab.ErrPrivileges) {
		t.Skipf("%v: run as root, or allow user namespaces", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	h, err := l.Add(lab.HostConfig{Name: "director"})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// run carries out command lines in a host, one by one.
func run(t testing.TB, h *lab.Host, lines ...string) string {
	t.Helper()
	script := "set -e\n"
	for _, line := range lines {
		if strings.HasPrefix(line, "nft ") { // braces and stars are nft's
			line = "nft '" + strings.ReplaceAll(strings.TrimPrefix(line, "nft "), `\"`, `"`) + "'"
		}
		script += line + "\n"
	}
	// The programs' locks belong to the host, not to other tests.
	c := h.Command(t.Context(), "sh", "-c", script)
	c.Env = append(os.Environ(), "XTABLES_LOCKFILE="+t.TempDir()+"/lock")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, out, strings.Join(lines, "\n"))
	}
	return string(out)
}

func read(t testing.TB, h *lab.Host) (r hostmark.Rules) {
	t.Helper()
	err := h.Do(func() (err error) {
		r, err = hostmark.Read()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, r)
	return r
}

// accepted holds rules to their promise that fwmark takes them.
func accepted(t testing.TB, r hostmark.Rules) {
	t.Helper()
	for i, list := range [][]fwmark.Rule{r.V4, r.V6} {
		if err := fwmark.NewTable(i == 1).SetRules(list); err != nil {
			t.Error(err)
		}
	}
}

// show is rules as the golden files have them.
func show(r hostmark.Rules) string {
	var b strings.Builder
	for _, r := range r.V4 {
		b.WriteString("= 4 " + r.String() + "\n")
	}
	for _, r := range r.V6 {
		b.WriteString("= 6 " + r.String() + "\n")
	}
	for _, s := range r.Unfollowed {
		b.WriteString("= not " + s + "\n")
	}
	return b.String()
}

// The files hold cases between empty lines: commands, and behind = what is
// followed of each family and what is not.
func TestGolden(t *testing.T) {
	for _, name := range []string{"iptables", "legacy", "nft"} {
		t.Run(name, func(t *testing.T) {
			file := "testdata/" + name + ".txt"
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			programs := map[string][]string{
				"iptables": {"iptables-nft", "ip6tables-nft"}, "legacy": {"iptables-legacy", "ip6tables-legacy"}, "nft": {"nft", "iptables-nft"},
			}[name]
			var got strings.Builder
			for _, part := range strings.Split(strings.TrimSpace(string(b)), "\n\n") {
				h := newHost(t, programs...)
				var commands []string
				for line := range strings.Lines(part) {
					if line = strings.TrimSpace(line); !strings.HasPrefix(line, "=") {
						got.WriteString(line + "\n")
						if !strings.HasPrefix(line, "#") {
							commands = append(commands, line)
						}
					}
				}
				start := time.Now()
				run(t, h, commands...)
				if d := time.Since(start); d > time.Second {
					t.Log(d, commands[0])
				}
				got.WriteString(show(read(t, h)) + "\n")
			}
			out := strings.TrimSpace(got.String()) + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if d := cmp.Diff(string(b), out); d != "" {
				t.Errorf("want -, got +:\n%s", d)
			}
		})
	}
}

// A rule for interfaces that ulvs does not have hides nothing from its packets, and is not
// listed; one that may be for them does, and is.
func TestInterfaces(t *testing.T) {
	h := newHost(t, "iptables-nft")
	for _, name := range []string{"lo", "wlan+", "eth1"} {
		run(t, h, "iptables-nft -t mangle -A PREROUTING -i "+name+" -m conntrack --ctstate NEW -j ACCEPT")
	}
	run(t, h, "iptables-nft -t mangle -A PREROUTING -i eth1 -m limit --limit 1/s -j MARK --set-mark 2",
		"iptables-nft -t mangle -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 1")
	const mark = "-A PREROUTING -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff\n"
	for _, tc := range []struct{ interfaces, want string }{
		{"eth0", "= 4 " + mark},
		{"eth0 eth1", "= not -A PREROUTING -i eth1 -m conntrack ... -j ACCEPT\n" +
			"= not -A PREROUTING -i eth1 -m limit ... -j MARK --set-xmark 0x2/0xffffffff\n= not " + mark},
	} {
		err := h.Do(func() error {
			r, err := hostmark.Read(strings.Fields(tc.interfaces)...)
			if got := show(r); got != tc.want {
				t.Errorf("%s: got\n%swant\n%s", tc.interfaces, got, tc.want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
