package ipvsnl

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

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
	return exchanged(text, func(line string) string {
		words := strings.Fields(line)
		number, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		value, err := hex.DecodeString(strings.Trim(words[len(words)-1], "-")) // "-" is nothing
		if err != nil {
			t.Fatal(err)
		}
		if words[0] == "set" {
			return fmt.Sprintf("  %s\n", nameOf(set(FirstOption+number, value)))
		}
		length, err := strconv.Atoi(words[2])
		if err != nil {
			t.Fatal(err)
		}
		value = append(value, make([]byte, length-len(value))...)
		size, errno := get(FirstOption+number, value)
		if errno != 0 {
			return fmt.Sprintf("  %s\n", nameOf(errno))
		}
		return fmt.Sprintf("  %d: %x\n", size, value)
	})
}

func nameOf(errno unix.Errno) string {
	if errno == 0 {
		return "ok"
	}
	return unix.ErrnoName(errno)
}

// The older options: what they set, what they show, and mistakes.
func TestOptions(t *testing.T) {
	d := newDirector(t)
	golden(t, "testdata/options.txt", func(text string) string {
		return optionAnswers(t, text,
			func(option int, value []byte) unix.Errno { return SetOption(d, true, option, value, len(value)) },
			func(option int, value []byte) (int, unix.Errno) {
				answer, size, errno := GetOption(d, true, option, value[:min(len(value), 128)], len(value))
				copy(value, answer)
				return size, errno
			})
	})
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
