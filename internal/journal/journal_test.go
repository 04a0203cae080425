package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func reopened(t *testing.T, block []byte) []string {
	t.Helper()
	_, records, err := Open(bytes.Clone(block))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range records {
		list = append(list, string(r))
	}
	return list
}

// What was appended is there for whoever opens the block, and a full half is
// exchanged for one with what still counts.
func TestAppendAndRewrite(t *testing.T) {
	block := make([]byte, 1024)
	j, err := New(block)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	rewritten := 0
	for n := range 1000 {
		r := fmt.Sprint("record ", n)
		err := j.Append([]byte(r))
		if errors.Is(err, ErrFull) {
			rewritten++
			want = want[len(want)-3:]
			var keep [][]byte
			for _, k := range want {
				keep = append(keep, []byte(k))
			}
			if err := j.Rewrite(keep); err != nil {
				t.Fatal(err)
			}
			err = j.Append([]byte(r))
		}
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
		if got := reopened(t, block); !slices.Equal(got, want) {
			t.Fatalf("after %d: %q, want %q", n, got, want)
		}
	}
	if rewritten == 0 {
		t.Fatal("never full")
	}
}

// A rewrite that does not fit, or is interrupted, leaves what there was.
func TestRewriteTooLarge(t *testing.T) {
	block := make([]byte, 1024)
	j, err := New(block)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append([]byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := j.Rewrite([][]byte{[]byte("new"), make([]byte, 1000)}); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if got := reopened(t, block); !slices.Equal(got, []string{"kept"}) {
		t.Fatal(got)
	}
	if err := j.Append(nil); err != nil {
		t.Fatal(err)
	}
	if got := reopened(t, block); !slices.Equal(got, []string{"kept", ""}) {
		t.Fatal(got)
	}
}

func FuzzOpen(f *testing.F) {
	block := make([]byte, 1024)
	j, _ := New(block)
	_ = j.Append([]byte("one"))
	f.Add(block)
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, block []byte) {
		j, records, err := Open(block)
		if err != nil {
			return
		}
		n := 0
		for _, r := range records {
			n += lengthSize + len(r)
		}
		if n != j.Size() || n > j.Room() {
			t.Fatalf("%d bytes of records, of %d in %d", n, j.Size(), j.Room())
		}
	})
}

// Memory that holds no journal is refused, and what is wrong with it is said.
func TestForeign(t *testing.T) {
	if _, err := New(make([]byte, 1023)); err == nil || err.Error() != "1023 bytes of memory are too few for a journal" {
		t.Error(err)
	}
	for want, damage := range map[string]func(half []byte){
		"this memory holds no journal of commands":                      func(h []byte) { h[0]++ },
		"this memory holds no journal of commands: 100000 bytes of rec": func(h []byte) { binary.NativeEndian.PutUint64(h[16:], 100000) },
		"this memory holds no journal of commands: 3 bytes behind the ": func(h []byte) { binary.NativeEndian.PutUint64(h[16:], 3) },
		"this memory holds no journal of commands: a record of 1000 by": func(h []byte) { binary.NativeEndian.PutUint32(h[headerSize:], 1000) },
	} {
		block := make([]byte, 2048)
		j, err := New(block)
		if err == nil {
			err = j.Append([]byte("a record"))
		}
		if err != nil {
			t.Fatal(err)
		}
		damage(block)
		if _, _, err := Open(block); !errors.Is(err, ErrForeign) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
