package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

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
