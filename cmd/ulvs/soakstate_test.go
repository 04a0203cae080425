package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// insideDir in the environment has a program that a test starts tell what it is like
// inside, at a socket that has its number for a name.
const insideDir = "ULVS_TEST_INSIDE"

// insideState is what only the process itself knows.
type insideState struct {
	Goroutines int
	Memory     goMemory
	Stacks     string // of the goroutines
}

// goMemory is what Go holds of the system, in KiB (runtime.MemStats).
type goMemory struct {
	Objects, Spans, Unreleased, Stacks, Structures, Collector, Others uint64
}

// held is all of it that is in use.
func (m goMemory) held() int { return int(m.Spans + m.Stacks + m.Structures + m.Collector + m.Others) }

func goMemoryOf(m *runtime.MemStats) goMemory {
	return goMemory{Objects: m.HeapAlloc >> 10, Spans: m.HeapInuse >> 10, Unreleased: (m.HeapIdle - m.HeapReleased) >> 10,
		Stacks: m.StackSys >> 10, Structures: (m.MSpanSys + m.MCacheSys + m.BuckHashSys) >> 10, Collector: m.GCSys >> 10, Others: m.OtherSys >> 10}
}

// tellInside answers at the socket. What the collector has not come to yet is given back
// to the system first, so that what is resident is what is held.
func tellInside(dir string) {
	name := filepath.Join(dir, fmt.Sprint(os.Getpid()))
	_ = os.Remove(name) // of one that was killed, and had this number
	l, err := net.Listen("unix", name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			debug.FreeOSMemory()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			_ = json.NewEncoder(c).Encode(insideState{runtime.NumGoroutine(), goMemoryOf(&m), stacks.String()})
			c.Close()
		}
	}()
}

// asked is what the daemon says of its inside.
func (k *soak) asked() (s insideState) {
	k.t.Helper()
	c, err := net.Dial("unix", filepath.Join(k.inside, fmt.Sprint(k.daemon.Process.Pid)))
	if err == nil {
		defer c.Close()
		var text []byte
		// To its end: then the daemon has closed its side, which else counts as a descriptor.
		if text, err = io.ReadAll(c); err == nil {
			err = json.Unmarshal(text, &s)
		}
	}
	if err != nil {
		k.t.Fatalf("%s: asking the daemon: %v", k.said, err)
	}
	return s
}

// soakState is what a daemon holds.
type soakState struct {
	Files      map[string]int // descriptors by what they are
	Goroutines int
	BPF        map[string]int // maps, programs and links that it holds: how many
	Pins       string
	Outside    string // programs of interfaces, nftables tables, and how many rules
	resident   int    // bytes
	memory     goMemory
	stacks     string
	mappings   map[string]int // KiB resident by what is mapped, and how large that is
}

var digits = regexp.MustCompile(`[0-9]+`)

// held is what the daemon holds now.
func (k *soak) held() (s soakState) {
	k.t.Helper()
	in := k.asked()
	s = soakState{Files: map[string]int{}, BPF: map[string]int{}, Goroutines: in.Goroutines, memory: in.Memory, stacks: in.Stacks,
		resident: resident(k.t, k.daemon.Process.Pid)}
	proc := fmt.Sprintf("/proc/%d/", k.daemon.Process.Pid)
	s.mappings = mappings(k.t, proc+"smaps")
	sockets := sockets(proc)
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		k.t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, f := range files {
		to, err := os.Readlink(proc + "fd/" + f.Name())
		if err != nil {
			continue
		}
		if kind := sockets[to]; kind != "" {
			to = kind
		}
		s.Files[digits.ReplaceAllString(to, "N")]++
		info, _ := os.ReadFile(proc + "fdinfo/" + f.Name())
		for line := range strings.Lines(string(info)) {
			name, _, ok := strings.Cut(line, "_id:")
			if ok && name != "mnt" && !ids[line] {
				ids[line] = true
				s.BPF[name]++
			}
		}
	}
	_ = filepath.WalkDir(k.pins, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			s.Pins += digits.ReplaceAllString(strings.TrimPrefix(path, k.pins), "N") + "\n"
		}
		return nil
	})
	s.Outside = regexp.MustCompile(`program [0-9]+`).ReplaceAllString(k.outside(""), "a program")
	return s
}

// sockets are what kinds the sockets in a process's network namespace are of, as far as the
// kernel lists them.
func sockets(proc string) map[string]string {
	kinds := map[string]string{}
	// In which column the inode stands.
	for kind, column := range map[string]int{"unix": 6, "packet": 8, "netlink": 9, "udp": 9, "raw": 9, "raw6": 9} {
		text, _ := os.ReadFile(proc + "net/" + kind)
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); len(words) > column {
				kinds["socket:["+words[column]+"]"] = "socket: " + kind
			}
		}
	}
	return kinds
}

// mappings is how much is resident of what a process has mapped.
func mappings(t *testing.T, smaps string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(smaps)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]int{}
	name := ""
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) >= 5 && strings.Contains(words[0], "-"):
			name = strings.Join(words[5:], " ")
		case words[0] == "Size:":
			name += " of " + words[1]
		case words[0] == "Rss:" && words[1] != "0":
			n, _ := strconv.Atoi(words[1])
			list[name] += n
		}
	}
	return list
}

// soakMark is a daemon at a time at which all is quiet.
type soakMark struct {
	at time.Duration
	soakState
}

func (m *soakMark) String() string {
	if m == nil {
		return "nothing"
	}
	files := 0
	for _, n := range m.Files {
		files += n
	}
	return fmt.Sprintf("after %v: %d KiB resident, in KiB of Go's %+v; %d descriptors, %d goroutines, BPF %v, %d pins, outside %d",
		m.at.Round(time.Second), m.resident>>10, m.memory, files, m.Goroutines, m.BPF, strings.Count(m.Pins, "\n"),
		strings.Count(m.Outside, "\n"))
}

// settledState is what a daemon holds when that changes no more.
func (k *soak) settledState() soakState {
	k.t.Helper()
	s := k.held()
	for began := time.Now(); ; {
		time.Sleep(200 * time.Millisecond)
		next := k.held()
		same := cmp.Equal(s, next, cmp.FilterPath(unexported, cmp.Ignore()))
		least := min(s.resident, next.resident)
		s = next
		s.resident = least
		if same {
			return s
		}
		if time.Since(began) > patience {
			k.t.Errorf("%s: what the daemon holds does not come to rest:\n%s", k.said, cmp.Diff(s, next, cmp.FilterPath(unexported, cmp.Ignore())))
			return s
		}
	}
}

func unexported(p cmp.Path) bool {
	f, ok := p.Last().(cmp.StructField)
	return ok && strings.ToLower(f.Name()) == f.Name()
}

// soakGrowth is how much more may be resident, of a hundred.
const soakGrowth = 2

// compare judges what a daemon holds by what one held before that had lived as long.
func (m *soakMark) compare(t *testing.T, between string, late *soakMark) {
	t.Helper()
	m.compareKinds(t, between, late)
	if late.resident*100 > m.resident*(100+soakGrowth) {
		t.Errorf("%s: %d KiB are resident, %d were: more than %d %% more\nby mapping (-before +after):\n%s", between,
			late.resident>>10, m.resident>>10, soakGrowth, cmp.Diff(m.mappings, late.mappings))
	}
}

// compareOlder judges what a daemon holds by what the same one held before. More of it is resident
// then, as Go's spans have pages that nobody had touched yet: what Go holds counts.
func (m *soakMark) compareOlder(t *testing.T, between string, late *soakMark) {
	t.Helper()
	m.compareKinds(t, between, late)
	if grown := late.memory.held() - m.memory.held(); grown*100 > m.resident>>10*soakGrowth {
		t.Errorf("%s: Go holds %+v KiB, and held %+v: that is more than %d %% of the %d KiB that were resident more", between,
			late.memory, m.memory, soakGrowth, m.resident>>10)
	}
}

// compareKinds judges what can be counted.
func (m *soakMark) compareKinds(t *testing.T, between string, late *soakMark) {
	t.Helper()
	if m == nil {
		t.Fatal("there is nothing to compare with")
	}
	if d := cmp.Diff(m.soakState, late.soakState, cmp.FilterPath(unexported, cmp.Ignore())); d != "" {
		t.Errorf("%s: what a daemon holds differs (-before +after):\n%s", between, d)
		if m.Goroutines != late.Goroutines {
			t.Logf("goroutines before:\n%s\nafter:\n%s", m.stacks, late.stacks)
		}
	}
}
