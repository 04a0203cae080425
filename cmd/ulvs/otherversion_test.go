package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What another version has left only that version can go on with: a refusal and the status do not
// send an operator to the options that he has just given.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	s := newPinSite(t)
	d := s.run()
	s.oneConnection()
	undo := s.relayout()
	defer undo()
	same := []string{"--interface", "eth0", "--plane", *fast, "--connections", "40000"}
	const says = "--connections 40000) to the version that left it to go on with that, or --fresh"
	s.refused(refusal{"a takeover from another version", nil, append(same, "--takeover"), says})
	_ = d.Process.Kill()
	_ = d.Wait()
	s.refused(refusal{"a start behind another version", nil, same, says})
	out, _ := s.attempt(program(t), "status", "--control", filepath.Join(s.dir, "ulvs.sock"), "--pin", s.pins)
	if !strings.Contains(out, `it is not of this version: "ulvs run" of the one that left it`) {
		t.Errorf("the status says\n%s", out)
	}
}
