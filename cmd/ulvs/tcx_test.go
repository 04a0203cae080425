package main

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fast is the plane of tests that say xdp.
var fast = flag.String("fast", "xdp", "the plane that stands for xdp: xdp or tcx")

// TestOnTCX plays some of XDP's tests on the plane tcx: a daemon that is killed among ten thousand
// connections, frames of a VLAN, and what is the host's after all. (All that hold there: go test ./cmd/ulvs -fast tcx.)
func TestOnTCX(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	if *fast != "xdp" {
		t.Skip("all are played on tcx")
	}
	t.Parallel()
	tests := []string{"TestKilled", "TestHostBound"}
	again := exec.Command(os.Args[0], "-test.v", "-fast=tcx", "-test.run", "^("+strings.Join(tests, "|")+")$")
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
