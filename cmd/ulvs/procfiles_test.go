package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/procfs"
)

// Programs under ulvs bridge exec --proc find IPVS's files under /proc as the kernel has them, and
// may set what whoever administers the network may.
func TestBridgeProc(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.marked()
	proc := func(script string) (string, int) {
		t.Helper()
		c := s.bridged("sh", "-c", script)
		c.Args = append(c.Args[:3:3], append([]string{"--proc"}, c.Args[3:]...)...)
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	const dir = "/proc/sys/net/ipv4/vs/"
	for _, x := range []struct {
		script, says string
		status       int
	}{
		{"cat /proc/net/ip_vs | tail -n 1", "FWM  0000000A rr \n", 0},
		{"cd /proc; cat self/net/ip_vs | tail -n 1; cd net; cat ./ip_vs | tail -n 1", "FWM  0000000A rr \nFWM  0000000A rr \n", 0},
		{"ipvsadm -Lnc", "IPVS connection entries\npro expire state       source             virtual            destination\n", 0},
		{"cat " + dir + "drop_entry", "0\n", 0},
		{"sysctl net.ipv4.vs.drop_entry", "net.ipv4.vs.drop_entry = 0\n", 0},
		{"sysctl -w net.ipv4.vs.sloppy_tcp=1; cat " + dir + "sloppy_tcp", "net.ipv4.vs.sloppy_tcp = 1\n1\n", 0},
		{"sysctl -w net.ipv4.vs.drop_entry=4", "sysctl: setting key \"net.ipv4.vs.drop_entry\": Invalid argument\n", 1},
		// A shell writes to a copy of what it has opened.
		{"echo 3 > " + dir + "drop_entry; cat " + dir + "drop_entry", "3\n", 0},
		{"echo x > " + dir + "drop_entry; cat " + dir + "drop_entry", "3\n", 0},
		{"for n in $(seq 100); do echo $((n % 2)) > " + dir + "sloppy_sctp; done; cat " + dir + "sloppy_sctp", "0\n", 0},
		{"ls -l /proc/net/ip_vs_conn " + dir + "conntrack | cut -c-11; ls -ld " + dir + " | cut -c-11", "-r--r--r-- \n-rw-r--r-- \ndr-xr-xr-x \n", 0},
		{"test -w " + dir + "conntrack && test -r /proc/net/ip_vs && ! test -w /proc/net/ip_vs && ! test -x /proc/net/ip_vs", "", 0},
		{"setpriv --reuid 65534 --clear-groups sh -c 'echo 1 > " + dir + "drop_entry'", "sh: 1: cannot create " + dir + "drop_entry: Permission denied\n", 2},
		{program(t) + " " + directory + " /proc/net/ip_vs", "not a directory\n", 0},
		{"cat /proc/net/ip_vs_nosuch", "cat: /proc/net/ip_vs_nosuch: No such file or directory\n", 1},
		{"sysctl net.ipv4.vs.nosuch", "sysctl: cannot stat /proc/sys/net/ipv4/vs/nosuch: No such file or directory\n", 1},
		{"sysctl -n net.ipv4.ip_forward", "0\n", 0},
		{"cat /proc/sys/net/ipv4/../ipv4/vs//drop_entry", "3\n", 0},
	} {
		if _, err := exec.LookPath("sysctl"); err != nil && strings.HasPrefix(x.script, "sysctl") {
			t.Log(err)
			continue
		}
		if out, status := proc("LC_ALL=C; export LC_ALL; " + x.script); out != x.says || status != x.status {
			t.Errorf("%s: exit %d, %q, want %d, %q", x.script, status, out, x.status, x.says)
		}
	}
	// What nobody waits for is carried out all the same; nor does it fill anything.
	for _, x := range [][2]string{{"echo 3 > " + dir + "secure_tcp", "secure_tcp = 3"},
		{"exec 3> " + dir + "sloppy_tcp; for n in $(seq 1000); do echo $((n % 2)) >&3; done; echo 7 >&3", "sloppy_tcp = 7"}} {
		c := s.bridged("sh", "-c", x[0])
		c.Args = append(c.Args[:3:3], append([]string{"--proc"}, c.Args[3:]...)...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", x[0], err, out)
		}
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			out, _ := s.ulvs("", "ulvs", "sysctl")
			if strings.Contains(out, x[1]) {
				break
			}
			if time.Since(began) > patience {
				t.Fatalf("%s: %s", x[0], out)
			}
		}
	}
	if err := s.daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.daemon.Wait()
	if out, status := proc("cat /proc/net/ip_vs"); status != 1 || !strings.Contains(out, "No such file") {
		t.Errorf("without a daemon: exit %d, %s", status, out)
	}
}

// The files of --procfs are whole whenever they are read, and end with the daemon (but not where
// another one takes over: TestTakeover).
func TestProcFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	mustWrite := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "net", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(".ip_vs_conn") // a daemon was killed while it wrote
	mustWrite("other")
	daemon := s.start("--interface", "eth0", "--plane", "afpacket", "--procfs", dir)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	await := func(name, want string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			text := read(name)
			if strings.Contains(text, want) {
				return
			}
			if text != "" && !strings.HasSuffix(text, "\n") {
				t.Fatalf("%s is cut off: %q", name, text)
			}
			if time.Since(began) > patience {
				t.Fatalf("%s has no %q: %q", name, want, text)
			}
		}
	}
	for _, name := range procfs.Names() {
		await(name, "\n")
	}
	if out, status := s.ulvs("", "ipvsadm", "-A", "-f", "10", "-s", "rr"); status != 0 {
		t.Fatal(out)
	}
	await("net/ip_vs", "FWM  0000000A rr \n")
	if files, err := os.ReadDir(filepath.Join(dir, "net")); err != nil || len(files) > len(procfs.Names())+2 {
		t.Errorf("%v, %v", files, err)
	}
	if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "net"))
	if err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// A folder that can not be written into is said once, and used again when that is possible.
func TestProcFilesOld(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	daemon := s.start("--interface", "eth0", "--plane", "afpacket", "--procfs", dir)
	last := filepath.Join(dir, "net", "ip_vs_stats_percpu")
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(last); err == nil {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("%s is not there", last)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	log := daemon.Stderr.(*said)
	for began := time.Now(); !strings.Contains(log.String(), "--procfs is old"); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal(log)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); !strings.Contains(log.String(), "are written again"); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal(log)
		}
	}
	if n := strings.Count(log.String(), "--procfs is old"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, log)
	}
}
