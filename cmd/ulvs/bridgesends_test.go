package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// becomeBridged has this binary be a program that tests run under the bridge, if its first argument
// says so.
func becomeBridged() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case sends:
		os.Exit(sendMany())
	case dump:
		os.Exit(dumpTwice())
	case unread:
		os.Exit(sendUnread())
	case directory:
		_, err := unix.Open(os.Args[2], unix.O_RDONLY|unix.O_DIRECTORY, 0)
		fmt.Println(err)
		os.Exit(0)
	case options:
		fmt.Fprintln(os.Stderr, becomeWithoutNetlink(os.Args[2:]))
		os.Exit(1)
	}
}

// directory is the word for a program that opens a file as if it were a directory.
const directory = "test-directory"

// sends is the word with which this binary is the program that TestBridgeSignals runs.
const sends = "test-sends"

// sendMany asks for the family IPVS 5,000 times while a timer interrupts it every 150 us, and
// prints how many times it could, and how many answers there were.
func sendMany() int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	alarms := make(chan os.Signal, 1)
	signal.Notify(alarms, unix.SIGALRM)
	timer := unix.Itimerval{Interval: unix.Timeval{Usec: 150}, Value: unix.Timeval{Usec: 150}}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, timer); err != nil {
		fmt.Println(err)
		return 1
	}
	sent, answers := 0, 0
	buf := make([]byte, 8192)
	for range 5000 {
		err := unix.Sendto(fd, ipvsnl.Question(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		switch {
		case err == nil:
			sent++
		case !errors.Is(err, unix.EINTR):
			fmt.Println(err)
			return 1
		}
		for {
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				break
			}
			answers++
		}
	}
	fmt.Printf("%d sent, %d answers\n", sent, answers)
	return 0
}

// unread is the word for a program that asks for listings and reads none.
const unread = "test-unread"

// sendUnread asks for all services until it may not any more, and prints why.
func sendUnread() int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	for n := 0; err == nil && n < 1<<16; n++ {
		err = unix.Sendto(fd, listing(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	fmt.Println(err)
	return 0
}

// options is the word for a program that becomes another one which has no descriptor left for the
// bridge's sockets of netlink, so that it finds no family IPVS, and asks by socket options.
const options = "test-options"

func becomeWithoutNetlink(words []string) error {
	for range 48 {
		if _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC); err != nil {
			return err
		}
	}
	return unix.Exec(words[0], words, os.Environ())
}

// By the older socket options, Debian's ipvsadm under the bridge says and does what ours does. They
// know IPv4 alone.
func TestBridgeOptions(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.alike([]string{program(t), options, s.ipvsadm}, `-A -t 192.168.10.101:80 -s rr -p 300 -M 255.255.255.0
-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g
-a -t 192.168.10.101:80 -r 192.168.10.201:80 -g -w 3 -x 100 -y 50
-A -u 192.168.10.101:53 -s mh -b mh-port -o
-A -f 10 -s wlc
-a -f 10 -r 192.168.10.200:0 -i
-A -t 192.168.10.101:80 -s rr
-a -t 192.168.10.101:80 -r 192.168.10.200:80 -g
-E -t 192.168.10.101:81 -s rr
-E -u 192.168.10.101:53 -s sh
-D -f 11
-d -f 10 -r 192.168.10.209:0
-A -t 192.168.10.101:82 -s nosuch
-e -t 192.168.10.101:80 -r 192.168.10.200:80 -g -w 0
-Z -t 192.168.10.101:80
--set 700 0 200
-Ln
-Ln --stats
-Ln --rate
-Ln --thresholds
-Ln --persistent-conn
-Ln -t 192.168.10.101:80
-L --timeout
-L --daemon
-Sn
-Z
-d -t 192.168.10.101:80 -r 192.168.10.201:80
-D -u 192.168.10.101:53
-Ln
`)
	if got, status := s.says(program(t), options, s.ipvsadm, "-A", "-t", "192.168.10.101:80", "-s", "rr"); status != 255 || got != "Service already exists\n" {
		t.Errorf("%d: %q", status, got)
	}
	if got, _ := s.says("sh", "-c", program(t)+" "+options+" "+s.ipvsadm+" -C && "+s.ipvsadm+" -Sn"); got != "" {
		t.Errorf("after -C: %s", got)
	}
}

// Debuggers see a program under the bridge, and the bridge, as any other.
func TestBridgeDebugged(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.marked()
	const want = "-A -f 10 -s rr\n"
	for _, words := range [][]string{
		{"strace", "-f", "-e", "trace=execve", "-o", filepath.Join(s.dir, "trace"), s.ipvsadm, "-Sn"},
		{"gdb", "-q", "-batch", "-ex", "run", "--args", s.ipvsadm, "-Sn"},
	} {
		path, err := exec.LookPath(words[0])
		if err != nil {
			t.Log(err)
			continue
		}
		if out, status := s.says(words...); status != 0 || !strings.Contains(out, want) {
			t.Errorf("%s under the bridge: %d: %s", words[0], status, out)
		}
		if words[0] == "gdb" {
			continue // Go's own signals stop it
		}
		c := s.bridged(s.ipvsadm, "-Sn")
		c.Args = append([]string{words[0], "-f", "-e", "trace=execve", "-o", filepath.Join(s.dir, "trace"), program(t)}, c.Args[1:]...)
		c.Path = path
		if out, err := c.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("the bridge under %s: %v: %s", words[0], err, out)
		}
	}
}

// dump is the word for a program that lists services twice, and waits within the first list.
const dump = "test-dump"

// dumpTwice prints how many services each list has, or its error.
func dumpTwice() int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	buf := make([]byte, 64<<10)
	for first := range 2 {
		if err := unix.Sendto(fd, listing(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			fmt.Println(err)
			return 1
		}
		services, ended := 0, false
		for n := 0; !ended; n++ {
			size, err := unix.Read(fd, buf)
			if err != nil {
				fmt.Println("error", err)
				break
			}
			for b := buf[:size]; len(b) >= unix.NLMSG_HDRLEN; {
				length := int(binary.NativeEndian.Uint32(b))
				switch binary.NativeEndian.Uint16(b[4:]) {
				case unix.NLMSG_DONE:
					ended = true
				case unix.NLMSG_ERROR:
					fmt.Println("error", unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:]))))
					ended = true
				default:
					services++
				}
				b = b[min((length+3)&^3, len(b)):]
			}
			if n == 0 && first == 0 {
				fmt.Println("first")
				_, _ = fmt.Scanln()
			}
		}
		fmt.Println(services)
	}
	return 0
}

// A list in whose middle the daemon is replaced is whole, or ends with an error; the next one is the
// next daemon's.
func TestBridgeReplaced(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	const services = 2000
	var rules strings.Builder
	for i := range services {
		fmt.Fprintf(&rules, "-A -f %d -s rr\n", 1+i)
	}
	if out, status := s.ulvs(rules.String(), "ipvsadm", "-R"); status != 0 {
		t.Fatal(out)
	}
	c, out := s.bridged(program(t), dump), new(said)
	c.Stdout, c.Stderr = out, out
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out.await(t, "first\n")
	_ = s.daemon.Process.Kill()
	_ = s.daemon.Wait()
	s.daemon = s.start("--interface", "eth0", "--plane", "afpacket")
	s.marked()
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	whole := len(lines) == 3 && lines[1] == fmt.Sprint(services)
	broken := len(lines) == 4 && strings.HasPrefix(lines[1], "error")
	if !whole && !broken || lines[len(lines)-1] != "1" {
		t.Errorf("%q", lines)
	}
}

// What a program asks for and does not read has a bound; then it may ask for no more. When it has
// ended, others are served.
func TestBridgeUnread(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	var rules strings.Builder
	for i := range 500 {
		fmt.Fprintf(&rules, "-A -f %d -s rr\n", 1+i)
	}
	if out, status := s.ulvs(rules.String(), "ipvsadm", "-R"); status != 0 {
		t.Fatal(out)
	}
	out, status := s.says("sh", "-c", program(t)+" "+unread+"; "+s.ipvsadm+" -Sn | wc -l")
	if status != 0 || out != "no buffer space available\n500\n" {
		t.Errorf("%d: %s", status, out)
	}
}

// Each request that a program could send has exactly one answer, whatever signals it gets
// meanwhile. Go's handlers have SA_RESTART, so that all are sent.
func TestBridgeSignals(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	if out, status := s.says(program(t), sends); status != 0 || !strings.HasSuffix(out, "5000 sent, 5000 answers\n") {
		t.Errorf("%d: %s", status, out)
	}
}

// listing asks for all services (GET_SERVICE).
func listing() []byte {
	const getService, header = 4, 20
	order := binary.NativeEndian
	b := order.AppendUint32(nil, header)
	b = order.AppendUint16(b, ipvsnl.FamilyID)
	b = order.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...)
	return append(b, getService, 1, 0, 0)
}

// A program's sockets are its own while signals come to each of the supervisor's threads, as Go's
// scheduler sends them: one that comes while the kernel puts a descriptor into the program must not
// have the call return another one.
func TestBridgeSupervisorSignalled(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	s.marked()
	const times = 80
	_, proceed := s.waiting(fmt.Sprintf("for i in $(seq %d); do %s -Sn; done", times, s.ipvsadm))
	end, over := make(chan bool), make(chan bool)
	go func() {
		defer close(over)
		for {
			select {
			case <-end:
				return
			default:
			}
			for _, pid := range s.supervisors() {
				s.signalThreads(pid, 2000)
			}
		}
	}()
	out, err := proceed()
	close(end)
	<-over
	if want := strings.Repeat("-A -f 10 -s rr\n", times); err != nil || out != want {
		t.Errorf("%v: %d of %d lines as they should be: %.500s", err, strings.Count(out, "-A -f 10 -s rr\n"), times,
			strings.ReplaceAll(out, "-A -f 10 -s rr\n", ""))
	}
}

// signalThreads sends SIGURG to a process's threads, so many times.
func (s *bridgeSite) signalThreads(pid, times int) {
	for range times {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return // it has ended
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			_ = unix.Tgkill(pid, tid, unix.SIGURG)
		}
	}
}
