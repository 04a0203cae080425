package latency

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/bench/frames"
	"github.com/ulvs/ulvs/internal/lab"
)

// load is what goes on beside. begin begins it and returns when it is under way; end ends it,
// and returns how often something was done.
type load struct {
	name  string
	begin func(*site, *contender) (end func() (n int))
}

const undisturbed = "undisturbed"

var loads = []load{
	{undisturbed, func(*site, *contender) func() int { return func() int { return 0 } }},
	{"syns", (*site).syns},
	{"listings", func(s *site, c *contender) func() int {
		return s.loop(c, `"$0" ipvsadm -Ln >/dev/null || exit 1; echo`)
	}},
	{"commands", func(s *site, c *contender) func() int { return s.loop(c, another) }},
}

// another is what makes another service, changes it and takes it away.
const another = `"$0" ipvsadm -A -t 10.30.0.1:80 -s rr && echo || exit 1
"$0" ipvsadm -a -t 10.30.0.1:80 -r 10.9.0.200 -g && echo || exit 1
"$0" ipvsadm -e -t 10.30.0.1:80 -r 10.9.0.200 -g -w 2 && echo || exit 1
"$0" ipvsadm -E -t 10.30.0.1:80 -s wlc && echo || exit 1
"$0" ipvsadm -D -t 10.30.0.1:80 && echo || exit 1`

// most is how long a load goes on, whatever happens.
const most = 2 * time.Minute

// loop runs a shell's commands over and over. Each line that they print counts.
func (s *site) loop(c *contender, commands string) func() int {
	s.Helper()
	stop := filepath.Join(s.dir, "stop")
	s.must(os.RemoveAll(stop))
	ctx, cancel := context.WithTimeout(context.Background(), most)
	cmd := c.at.command(ctx, "sh", "-c", `while [ ! -e "$1" ]; do `+commands+"\ndone", s.binary, stop)
	out, complaint := new(lab.Output), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, complaint
	s.must(cmd.Start())
	for began := time.Now(); out.String() == ""; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			s.Fatalf("%s has done nothing: %s", commands, complaint)
		}
	}
	return func() int {
		defer cancel()
		s.must(os.WriteFile(stop, nil, 0o600))
		if err := cmd.Wait(); err != nil {
			s.Fatalf("%s: %v: %s", commands, err, complaint)
		}
		return strings.Count(out.String(), "\n")
	}
}

// SYNs come evenly, each from another client, of which none gets an answer: the real server has
// no route to them. There are as many as can be asked for in the minute that one has.
const (
	synRate    = 20_000
	synClients = 10<<24 | 128<<16 // 10.128.0.0
	synPorts   = 16               // of each
	synFlows   = 1 << 21
)

// syns sends them to a contender's service. What counts is how many come to the real server.
func (s *site) syns(c *contender) func() int {
	s.Helper()
	to, err := frames.New(netip.AddrPortFrom(c.vip, port), frames.SYN)
	s.must(err)
	frame := to.List[0].Data
	copy(frame, c.next.MAC())
	copy(frame[6:], s.flooder.MAC())
	var fd int
	s.must(s.flooder.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.flooder.Index()})
	}))
	// It has no route to who sent them (RFC 3704).
	come := func() int { return int(s.kernel(s.server, "netstat", "TcpExt", "IPReversePathFilter")) }
	before := come()
	var stop atomic.Bool
	done := make(chan error)
	go func() { done <- s.send(fd, to, &stop) }()
	end := func() int {
		stop.Store(true)
		s.must(<-done)
		s.must(unix.Close(fd))
		return come() - before
	}
	for began := time.Now(); come() == before; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			end()
			s.Fatalf("%s: no SYN has come to the real server", c.name)
		}
	}
	return end
}

// send sends until it is to stop. What was missed is caught up with, but for what is older than
// some milliseconds.
func (s *site) send(fd int, to *frames.Batch, stop *atomic.Bool) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Or each sleep takes 50 us more (prctl(2)). The thread keeps that, which harms nobody.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return err
	}
	const gap, late = time.Second / synRate, 10 * time.Millisecond
	began := time.Now()
	for due := began; !stop.Load() && time.Since(began) < most; due = due.Add(gap) {
		if wait := time.Until(due); wait < -late {
			due = time.Now()
		} else if wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // a signal cuts it short
		}
		n := s.flows.Add(1) % synFlows
		to.Client(0, synClients+n/synPorts, uint16(1024+n%synPorts))
		if _, err := unix.Write(fd, to.List[0].Data); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
	return nil
}
