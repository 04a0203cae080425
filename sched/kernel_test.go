package sched

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The kernel's choices, recorded in user-mode Linux (testdata/kernel/README).
// Each file is a scheduler's; each of its sections is a service of its own,
// made anew.

// recording replays one section.
type recording struct {
	name     string // of the scheduler
	ipv6     bool
	mark     bool // a service by mark, of many virtual addresses
	virtuals uint32
	s        Scheduler
	now      time.Duration
	list     []*Dest // newest first
	servers  map[byte]*Dest
	links    []link
}

// link is a connection, by its number in the section.
type link struct {
	d            *Dest
	active, over bool
}

func TestKernel(t *testing.T) {
	files, err := filepath.Glob("testdata/kernel/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []string
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		recorded = append(recorded, name)
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := replay(t, string(text)); n < 10000 {
				t.Errorf("only %d choices", n)
			}
		})
	}
	recorded = append(recorded, "twos")   // is random
	recorded = append(recorded, "none")   // chooses nothing: conformance, no-scheduler.txt
	recorded = append(recorded, "oldest") // is no scheduler of the kernel's: register_test.go
	slices.Sort(recorded)
	if !slices.Equal(recorded, Names()) {
		t.Errorf("there are recordings of %v, schedulers %v", recorded, Names())
	}
}

// replay plays a file up to the first difference and returns how many choices
// were the same.
func replay(t *testing.T, text string) (choices int) {
	var r *recording
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if words[0] == "service" {
			r = newRecording(t, line)
			continue
		}
		made, err := r.step(words[0], words[1:])
		choices += made
		if err != nil {
			t.Fatalf("line %d: %.80s: %v", n, strings.TrimSpace(line), err)
		}
	}
	return choices
}

func newRecording(t *testing.T, line string) *recording {
	r := &recording{now: time.Hour, servers: map[byte]*Dest{}}
	var family string
	if _, err := fmt.Sscanf(line, "service %s %s mark=%t virtuals=%d", &r.name, &family, &r.mark, &r.virtuals); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	r.ipv6 = family == "IPv6"
	s, err := New(r.name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.s = s
	return r
}

// step returns how many choices were as recorded.
func (r *recording) step(verb string, args []string) (choices int, err error) {
	scan := func(into ...any) error {
		_, err := fmt.Sscan(strings.Join(args, " "), into...)
		return err
	}
	var letter string
	var n int64
	var weight int32
	var upper, lower uint32
	switch verb {
	case "server":
		ap, err := netip.ParseAddrPort(args[1])
		d := &Dest{Port: ap.Port(), IPv6: r.ipv6}
		copy(d.Addr[:], ap.Addr().AsSlice())
		r.servers[args[0][0]] = d
		return 0, err
	case "add", "edit":
		if err := scan(&letter, &weight, &upper, &lower); err != nil {
			return 0, err
		}
		d := r.servers[letter[0]]
		if verb == "edit" {
			d.Set(weight, upper, lower)
			r.s.Updated(r.list, d)
			return 0, nil
		}
		d.Enlist(weight, upper, lower)
		r.list = append([]*Dest{d}, r.list...)
		r.s.Added(r.list, d)
	case "del":
		d := r.servers[args[0][0]]
		r.list = slices.DeleteFunc(slices.Clone(r.list), func(e *Dest) bool { return e == d })
		r.s.Removed(r.list, d)
	case "flags":
		err = scan(&n)
		r.s.(Flagged).SetFlags(Flags(n))
	case "wait": // milliseconds
		err = scan(&n)
		r.now += time.Duration(n) * time.Millisecond
	case "expiration":
		err = scan(&n)
		r.s.(Forgetful).SetExpiration(time.Duration(n) * time.Millisecond)
	case "new":
		return r.connect(args)
	case "fin", "end":
		err = r.close(args, verb == "end")
	default:
		err = fmt.Errorf("no such step")
	}
	return 0, err
}

// connect opens connections with SYN and ACK. The clients' addresses go up by
// a step, their ports by one, the numbers of the virtual addresses by another
// step, round the number of them.
func (r *recording) connect(args []string) (choices int, err error) {
	var first, want string
	var step, at, by uint32
	var port uint16
	if _, err := fmt.Sscan(strings.Join(args, " "), &first, &step, &port, &at, &by, &want); err != nil {
		return 0, err
	}
	client, err := netip.ParseAddr(first)
	if err != nil {
		return 0, err
	}
	var got []byte
	for i := range uint32(len(want)) {
		q := &Request{ClientPort: port + uint16(i), VirtualPort: 80, Proto: 6, IPv6: r.ipv6, Now: r.now}
		n := copy(q.Client[:], client.AsSlice())
		last := q.Client[n-4 : n]
		binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+i*step)
		q.Virtual = r.virtual((at + i*by) % max(r.virtuals, 1))
		d := r.s.Schedule(q)
		r.links = append(r.links, link{d: d, active: true, over: d == nil})
		got = append(got, r.letter(d))
		if got[i] != want[i] {
			return int(i), fmt.Errorf("after %d equal choices got %c, the kernel chose %c", i, got[i], want[i])
		}
		if d != nil {
			d.Bind(false, false)
			d.Activate(true)
		}
	}
	return len(want), nil
}

func (r *recording) virtual(n uint32) (a [16]byte) {
	switch {
	case !r.ipv6 && !r.mark:
		n = 1
		fallthrough
	case !r.ipv6:
		copy(a[:], []byte{10, 50, byte(n >> 8), byte(n)})
	default:
		a = [16]byte{0: 0xfd, 1: 0x50, 15: 1}
		if r.mark {
			binary.BigEndian.PutUint32(a[4:], n*2654435761)
			binary.BigEndian.PutUint32(a[12:], n)
		}
	}
	return a
}

func (r *recording) letter(d *Dest) byte {
	for l, e := range r.servers {
		if e == d {
			return l
		}
	}
	return '-'
}

// close makes connections inactive with FIN, and ends them after FIN_WAIT's
// timeout. The packets of a removed server's connections are not looked at, so
// those stay as they are.
func (r *recording) close(ranges []string, end bool) error {
	for _, s := range ranges {
		var from, to int
		if _, err := fmt.Sscanf(s, "%d-%d", &from, &to); err != nil {
			return err
		}
		for i := range r.links[from : to+1] {
			c := &r.links[from+i]
			if c.over || !slices.Contains(r.list, c.d) {
				continue
			}
			if c.active {
				c.d.Activate(false)
				c.active = false
			}
			if end {
				c.d.Unbind(false, false)
				c.over = true
			}
		}
	}
	return nil
}
