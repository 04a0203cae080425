package main

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fast is the plane of tests that need programs: where they are at the ingress, or in the driver, which
// takes veth pairs whose other ends are made for that (lab.TakeXDP).
var fast = flag.String("fast", "tcx", "the plane of tests that need programs: tcx or xdp")

// TestOnXDP plays some of TCX's tests on the plane xdp: a daemon that is killed among ten thousand
// connections, and what is pinned. (All that hold there: go test ./cmd/ulvs -fast xdp.)
func TestOnXDP(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	if *fast != "tcx" {
		t.Skip("all are played on XDP")
	}
	t.Parallel()
	tests := []string{"TestKilled", "TestPins", "TestVirtualRouterMAC"}
	again := exec.Command(os.Args[0], "-test.v", "-fast=xdp", "-test.run", "^("+strings.Join(tests, "|")+")$")
	again.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, asProgram+"=") })
	out, err := again.CombinedOutput()
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass", name)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s", err, out)
	}
}
