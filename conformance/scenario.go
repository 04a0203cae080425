package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultVIP is the director's virtual address when a scenario names none.
var DefaultVIP = netip.MustParseAddr("192.168.10.101")

// Scenario is a parsed scenario.
type Scenario struct {
	VIPs  []netip.Addr
	Steps []Step
}

// Step is one statement. Exactly one of Command, Send and Sleep is set.
type Step struct {
	Line int // in the source, from 1
	// Command is the program's name and arguments; Show says that its answer
	// is listed even when it is empty and good.
	Command []string
	Show    bool
	Send    *Send
	Sleep   time.Duration
}

// programs are the commands that a scenario may give to its director.
var programs = []string{"ipvsadm", "iptables", "ip6tables", "sysctl", "cat", Exporter}

// maxSleep bounds a sleep; the longest timeout of IPVS's that one might want
// to wait for is 900 s.
const maxSleep = time.Hour

// ParseScenario parses the text of a scenario. Errors name the line.
func ParseScenario(text string) (*Scenario, error) {
	sc := &Scenario{VIPs: []netip.Addr{DefaultVIP}}
	in := bufio.NewScanner(strings.NewReader(text))
	packets := 0
	for n := 1; in.Scan(); n++ {
		words := strings.Fields(in.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if words[0] == "vip" {
			vips, err := parseVIPs(words[1:])
			if err != nil {
				return nil, fmt.Errorf("line %d: vip: %w", n, err)
			}
			sc.VIPs = vips
			continue
		}
		step, err := parseStep(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", n, words[0], err)
		}
		if step.Send != nil {
			packets += step.Send.Count
		}
		if packets > maxNumber {
			return nil, fmt.Errorf("line %d: more than %d packets in a scenario", n, maxNumber)
		}
		step.Line = n
		sc.Steps = append(sc.Steps, step)
	}
	return sc, in.Err()
}

func parseVIPs(words []string) ([]netip.Addr, error) {
	if len(words) == 0 {
		return nil, errors.New("no address")
	}
	var vips []netip.Addr
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil {
			return nil, err
		}
		vips = append(vips, a)
	}
	return vips, nil
}

func parseStep(words []string) (Step, error) {
	verb, args := words[0], words[1:]
	switch {
	case slices.Contains(programs, verb):
		return Step{Command: words}, nil
	case verb == "show":
		return Step{Command: append([]string{"ipvsadm"}, args...), Show: true}, nil
	case verb == "sleep":
		if len(args) != 1 {
			return Step{}, errors.New("want one number of seconds")
		}
		s, err := strconv.ParseFloat(args[0], 64)
		if err != nil || !(s > 0 && s <= maxSleep.Seconds()) {
			return Step{}, fmt.Errorf("%q is not a number of seconds between 0 and %v", args[0], maxSleep.Seconds())
		}
		return Step{Sleep: time.Duration(s * float64(time.Second))}, nil
	case verb == "send":
		s, err := parseSend(args)
		return Step{Send: s}, err
	}
	return Step{}, fmt.Errorf("no such statement; there are vip, send, show, sleep, %s", strings.Join(programs, ", "))
}
