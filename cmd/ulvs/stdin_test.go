package main

import (
	"os"
	"strings"
	"testing"
)

// The input of ipvsadm -R says what is there without waiting, and comes whole.
func TestStdin(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in := newStdin(r)
	if in.Ready() {
		t.Error("an empty pipe is ready")
	}
	block := make([]byte, 1<<20)
	for range 1000 {
		if _, err := w.WriteString("a line\n"); err != nil {
			t.Fatal(err)
		}
		if !in.Ready() {
			t.Error("a line that was written is not ready")
		}
		if n, err := in.Read(block); string(block[:n]) != "a line\n" || err != nil {
			t.Errorf("read %q, %v", block[:n], err)
		}
		if in.Ready() {
			t.Error("what was read is ready again")
		}
	}
	text := strings.Repeat("0123456789abcdef", 3*stdinMost/16)
	go func() {
		_, _ = w.WriteString(text)
		w.Close()
	}()
	got := 0
	for {
		n, err := in.Read(block)
		if string(block[:n]) != text[got:got+n] {
			t.Fatalf("not what was written, at %d", got)
		}
		if got += n; err != nil {
			break
		}
	}
	if got != len(text) || !in.Ready() {
		t.Errorf("%d bytes of %d, ready at the end: %v", got, len(text), in.Ready())
	}
}
