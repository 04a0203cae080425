package ipvsnl

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// setter and getter are system calls, or ours: what is in value is there after it as the caller
// finds it.
type (
	setter func(option int, value []byte) unix.Errno
	getter func(option int, value []byte) (size int, errno unix.Errno)
)

// optionAnswers answers the lines of testdata/options.txt: "set OPTION BYTES", and
// "get OPTION LENGTH BYTES", of which the rest are zero.
func optionAnswers(t *testing.T, text string, set setter, get getter) string {
	t.Helper()
	var got strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		got.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		number, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		value, err := hex.DecodeString(strings.Trim(words[len(words)-1], "-")) // "-" is nothing
		if err != nil {
			t.Fatal(err)
		}
		if words[0] == "set" {
			fmt.Fprintf(&got, "  %s\n", nameOf(set(FirstOption+number, value)))
			continue
		}
		length, err := strconv.Atoi(words[2])
		if err != nil {
			t.Fatal(err)
		}
		value = append(value, make([]byte, length-len(value))...)
		size, errno := get(FirstOption+number, value)
		if errno != 0 {
			fmt.Fprintf(&got, "  %s\n", nameOf(errno))
			continue
		}
		fmt.Fprintf(&got, "  %d: %x\n", size, value)
	}
	return got.String()
}

func nameOf(errno unix.Errno) string {
	if errno == 0 {
		return "ok"
	}
	return unix.ErrnoName(errno)
}

// The older options: what they set, what they show, and mistakes.
func TestOptions(t *testing.T) {
	const file = "testdata/options.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := newDirector(t)
	got := optionAnswers(t, string(text),
		func(option int, value []byte) unix.Errno { return SetOption(d, true, option, value, len(value)) },
		func(option int, value []byte) (int, unix.Errno) {
			answer, size, errno := GetOption(d, true, option, value[:min(len(value), 128)], len(value))
			copy(value, answer)
			return size, errno
		})
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Without CAP_NET_ADMIN nothing is set and nothing is shown.
func TestOptionsWithoutRights(t *testing.T) {
	d := newDirector(t)
	for option := FirstOption; option <= LastOption; option++ {
		if errno := SetOption(d, false, option, make([]byte, 128), setLengths[option]); errno != unix.EPERM {
			t.Errorf("set %d: %v", option, errno)
		}
		answer, _, errno := GetOption(d, false, option, make([]byte, 128), 128)
		if errno != unix.EPERM && option <= getDaemon || errno == 0 || answer != nil {
			t.Errorf("get %d: %v", option, errno)
		}
	}
}

// Whatever is set or asked for, an answer is no longer than the caller's memory.
func FuzzOption(f *testing.F) {
	f.Add(2, 44, make([]byte, 44))
	f.Add(2, 208, []byte{2, 0, 0, 0})
	f.Add(4, 24, make([]byte, 24))
	d := newDirector(f)
	f.Fuzz(func(t *testing.T, number, length int, value []byte) {
		value = value[:min(len(value), 128)]
		_ = SetOption(d, true, FirstOption+number, value, len(value))
		answer, size, errno := GetOption(d, true, FirstOption+number, value, length)
		if errno == 0 && (len(answer) > length || size > length) {
			t.Errorf("%d bytes and a size of %d for %d", len(answer), size, length)
		}
		if err := d.Clear(); err != nil {
			t.Fatal(err)
		}
	})
}
