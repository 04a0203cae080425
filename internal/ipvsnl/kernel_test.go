package ipvsnl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	askKernel = flag.Bool("kernel", false, "TestKernel: boot user-mode Linux, and have its kernel answer")
	inside    = flag.String("inside", "", "what is run in user-mode Linux: the `FILE` for the kernel's answers")
)

// The kernel says of testdata/requests.txt what is written there, but for sync daemons, and for what
// comes last in it.
func TestKernel(t *testing.T) {
	if !*askKernel {
		t.Skip("make conformance boots user-mode Linux")
	}
	linux, err := exec.LookPath("linux.uml")
	if err != nil {
		t.Skip("no user-mode Linux: apt-get install user-mode-linux busybox-static")
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	init := fmt.Sprintf(`#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
ip link set lo up
cd %s
%s -test.run '^TestInside$' -inside %s >%s.log 2>&1
echo o >/proc/sysrq-trigger
`, here, exe, out, out)
	if err := os.WriteFile(filepath.Join(dir, "init"), []byte(init), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	boot := exec.CommandContext(ctx, linux, "rootfstype=hostfs", "root=/dev/root", "rootflags=/", "rw", "mem=256M",
		"init="+filepath.Join(dir, "init"), "con=null", "con0=null,fd:1", "quiet", "uml_dir="+dir)
	console, err := boot.CombinedOutput()
	got, failed := os.ReadFile(out)
	if failed != nil {
		log, _ := os.ReadFile(out + ".log")
		t.Fatalf("%v, %v: %s%s", err, failed, console, log)
	}
	want, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := exchanges(string(want)), exchanges(string(got))
	if len(ours) != len(theirs) {
		t.Fatalf("%d exchanges of ours, %d of the kernel's", len(ours), len(theirs))
	}
	compareOptions(t, out+".options")
	refused := false // what comes last
	for i, x := range ours {
		refused = refused || strings.HasPrefix(x, "# What the kernel takes")
		switch same := x == theirs[i]; {
		case !refused && !same && !strings.Contains(x, "  ENOTSUP"): // sync daemons
			t.Errorf("ours:\n%sthe kernel's:\n%s", x, theirs[i])
		case refused && same && strings.Contains(x, "  E"):
			t.Errorf("the kernel refuses that too:\n%s", x)
		}
	}
}

// compareOptions compares testdata/options.txt with the kernel's answers.
func compareOptions(t *testing.T, out string) {
	t.Helper()
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/options.txt")
	if err != nil {
		t.Fatal(err)
	}
	theirs := exchanges(string(got))
	for i, x := range exchanges(string(want)) {
		if x != theirs[i] {
			t.Errorf("ours:\n%sthe kernel's:\n%s", x, theirs[i])
		}
	}
}

// exchanges are requests with their answers, in an order that both have: the kernel lists
// services in that of a hash.
func exchanges(text string) (list []string) {
	var one []string
	end := func() {
		if len(one) > 1 {
			slices.Sort(one[1:])
		}
		if len(one) > 0 {
			list = append(list, strings.Join(one, ""))
		}
		one = nil
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "  ") {
			end()
		}
		// A kernel for processors that want numbers aligned pads them, as that one does.
		one = append(one, strings.ReplaceAll(line, " 11: ", " "))
	}
	end()
	return list
}

// TestInside asks the kernel that it runs on.
func TestInside(t *testing.T) {
	if *inside == "" {
		t.Skip("this is run in user-mode Linux, by TestKernel")
	}
	load(t, "ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_wlc", "ip_vs_mh", "ip_vs_pe_sip")
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	ask := func(raw []byte) (out [][]byte) {
		if err := unix.Sendto(fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			t.Fatal(err)
		}
		for {
			buf := make([]byte, 1<<16)
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EAGAIN) {
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, buf[:n])
		}
	}
	wait := unix.Timeval{Usec: 50000}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	who := ask(whoIs(FamilyName))
	if len(who) != 1 {
		t.Fatalf("no family: %s", shown(who))
	}
	found, err := parse(requestOfRaw(who[0]).attributes(), []rule{unix.CTRL_ATTR_FAMILY_ID: {kind: u16}})
	if err != nil {
		t.Fatal(err)
	}
	id := order.Uint16(found[unix.CTRL_ATTR_FAMILY_ID])
	text, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		got.WriteString(line)
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		raw := written(t, line)
		order.PutUint16(raw[4:], id)
		got.WriteString(shown(ask(raw)))
	}
	if err := os.WriteFile(*inside, []byte(got.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	insideOptions(t)
}

// insideOptions does what TestOptions does, by system calls.
func insideOptions(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/options.txt")
	if err != nil {
		t.Fatal(err)
	}
	got := optionAnswers(t, string(text),
		func(option int, value []byte) unix.Errno {
			if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, option, string(value)); err != nil {
				return err.(unix.Errno)
			}
			return 0
		},
		func(option int, value []byte) (int, unix.Errno) { return getOption(fd, option, value) })
	if err := os.WriteFile(*inside+".options", []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

func requestOfRaw(b []byte) request {
	r := requestOf(b)
	r.raw = b[:r.length]
	return r
}

// load loads modules and what they need, by the list that depmod left.
func load(t *testing.T, names ...string) {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join("/usr/lib/uml/modules", unix.ByteSliceToString(uts.Release[:]))
	list, err := os.ReadFile(filepath.Join(root, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for line := range strings.Lines(string(list)) {
			path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
			if filepath.Base(path) != name+".ko" {
				continue
			}
			all := append([]string{path}, strings.Fields(needs)...) // the deepest last
			for _, path := range slices.Backward(all) {
				f, err := os.Open(filepath.Join(root, path))
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
					t.Fatal(path, err)
				}
				_ = f.Close()
			}
		}
	}
}
