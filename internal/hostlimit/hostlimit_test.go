package hostlimit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlimit"
	"github.com/ulvs/ulvs/internal/lab"
)

// tree makes a folder of sysctls.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRead(t *testing.T) {
	all := map[string]string{
		"ipv4/icmp_ratelimit": "250\n", "ipv4/icmp_ratemask": "-1\n", "ipv4/icmp_msgs_per_sec": "7\n",
		"ipv4/icmp_msgs_burst": "3\n", "ipv6/icmp/ratelimit": "100\n", "ipv6/icmp/ratemask": "0-1,3-127,200\n",
	}
	defaults := dataplane.DefaultErrorLimits()
	without6, older := defaults, defaults
	without6.Interval = 0
	older.Interval, older.Interval6 = 0, 0
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  dataplane.ErrorLimits
		err   string
	}{
		{"all", all, dataplane.ErrorLimits{
			Interval: 250 * time.Millisecond, Mask: 0xffffffff, PerSecond: 7, Burst: 3, Interval6: 100 * time.Millisecond,
			Mask6: [4]uint64{^uint64(4), ^uint64(0), 0, 1 << 8},
		}, ""},
		{"the kernel's defaults", map[string]string{
			"ipv4/icmp_ratelimit": "1000\n", "ipv4/icmp_ratemask": "6168\n", "ipv4/icmp_msgs_per_sec": "1000\n",
			"ipv4/icmp_msgs_burst": "50\n", "ipv6/icmp/ratelimit": "1000\n", "ipv6/icmp/ratemask": "0-1,3-127\n",
		}, defaults, ""},
		{"without IPv6", map[string]string{"ipv4/icmp_ratelimit": "0\n"}, without6, ""},
		{"a namespace before Linux 6.12", map[string]string{"ipv4/icmp_ratelimit": "0\n", "ipv6/icmp/ratelimit": "0\n"}, older, ""},
		{"nothing", nil, defaults, "is /proc mounted?"},
		{"not a number", map[string]string{"ipv4/icmp_msgs_burst": "many\n"}, defaults, "icmp_msgs_burst"},
		{"not a bitmap", map[string]string{"ipv6/icmp/ratemask": "1-300\n"}, defaults, "ratemask"},
		{"an empty bitmap", map[string]string{"ipv6/icmp/ratemask": "\n"}, func() dataplane.ErrorLimits {
			l := defaults
			l.Mask6 = [4]uint64{}
			return l
		}(), ""},
	} {
		got, err := hostlimit.Read(tree(t, tt.files))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want %s", tt.name, err, tt.err)
			}
			continue
		}
		if d := cmp.Diff(tt.want, got); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got)\n%s", tt.name, err, d)
		}
	}
}

// What a network namespace has is read in it, and not what the test's own has.
func TestReadNamespace(t *testing.T) {
	l, err := lab.New(lab.Config{})
	if errors.Is(err, lab.ErrPrivileges) {
		t.Skipf("%v: run as root, or allow user namespaces", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := l.Add(lab.HostConfig{Name: "host", MAC: lab.MAC(1), Sysctls: [][2]string{
		{"net.ipv4.icmp_ratelimit", "700"}, {"net.ipv4.icmp_ratemask", "8"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got dataplane.ErrorLimits
	if err := h.Do(func() (err error) {
		got, err = hostlimit.Read(hostlimit.Root)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got.Interval != 700*time.Millisecond || got.Mask != 8 {
		t.Errorf("read %+v", got)
	}
}
