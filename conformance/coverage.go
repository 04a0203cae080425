package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// Coverage counts, for each thing that scenarios can say, in how many it is
// said: names are such as "scheduler rr", "verb -A", "tcp S", "family IPv6".
type Coverage map[string]int

// Add counts a scenario.
func (c Coverage) Add(text string) {
	said := make(map[string]bool)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		for _, w := range words[1:] {
			if strings.Contains(w, "fd0") {
				said["family IPv6"] = true
			} else if strings.Contains(w, "192.168.") {
				said["family IPv4"] = true
			}
		}
		switch words[0] {
		case "ipvsadm", "show":
			said["verb "+words[1]] = true
			for i, w := range words[:len(words)-1] {
				switch w {
				case "-s":
					said["scheduler "+words[i+1]] = true
				case "-b":
					for f := range strings.SplitSeq(words[i+1], ",") {
						said["flag "+f] = true
					}
				}
			}
			for _, w := range words[2:] {
				if strings.HasPrefix(w, "-") {
					said["option "+w] = true
				}
			}
		case "sysctl":
			name, _, _ := strings.Cut(strings.TrimPrefix(words[1], "net.ipv4.vs."), "=")
			said["sysctl "+name] = true
			said["sysctl "+strings.TrimPrefix(words[1], "net.ipv4.vs.")] = true
		case "iptables", "ip6tables", "sleep":
			said[words[0]] = true
		case "send":
			said["protocol "+words[1]] = true
			for _, w := range words[5:] {
				key, _, isOption := strings.Cut(w, "=")
				switch {
				case isOption:
					said["packet "+key+"="] = true
				case words[1] == "tcp":
					for _, f := range w {
						said["tcp "+string(f)] = true
					}
				case words[1] == "sctp":
					for chunk := range strings.SplitSeq(w, ",") {
						said["sctp "+chunk] = true
					}
				default:
					said[words[1]+" "+w] = true
				}
			}
		}
	}
	for s := range said {
		c[s]++
	}
}

// String is a table, sorted.
func (c Coverage) String() string {
	var lines []string
	for name, n := range c {
		lines = append(lines, fmt.Sprintf("%5d  %s", n, name))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[7:], b[7:]) })
	return strings.Join(lines, "\n") + "\n"
}
