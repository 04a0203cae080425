package ipvsnl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/conformance"
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
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	console, err := conformance.Guest{Module: "../.."}.Run(ctx, "sh", "-c",
		fmt.Sprintf("ip link set lo up; cd %s; exec %s -test.run '^TestInside$' -inside %s", here, exe, out))
	if errors.Is(err, conformance.ErrNoGuest) {
		t.Skip(err)
	}
	got, failed := os.ReadFile(out)
	if failed != nil {
		t.Fatalf("%v, %v: %s", err, failed, console)
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
			switch {
			case errors.Is(err, unix.EAGAIN):
				return out
			case errors.Is(err, unix.EINTR): // by a signal of Go's scheduler
				continue
			case err != nil:
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
	got := requestAnswers(t, string(text), func(raw []byte) [][]byte {
		order.PutUint16(raw[4:], id)
		return ask(raw)
	})
	if err := os.WriteFile(*inside, []byte(got), 0o644); err != nil {
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
