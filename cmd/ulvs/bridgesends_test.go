package main

import (
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

// Each request that a program could send has exactly one answer, whatever signals it gets
// meanwhile. Go's handlers have SA_RESTART, so that all are sent.
func TestBridgeSignals(t *testing.T) {
	t.Parallel()
	s := newBridgeSite(t)
	if out, status := s.says(program(t), sends); status != 0 || !strings.HasSuffix(out, "5000 sent, 5000 answers\n") {
		t.Errorf("%d: %s", status, out)
	}
}
