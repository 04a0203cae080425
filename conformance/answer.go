package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// answer is a command and what it printed, as recordings show it.
func answer(words []string, exit int, output string) []string {
	lines := []string{fmt.Sprintf("$ %s (exit %d)", strings.Join(words, " "), exit)}
	for _, l := range normalize(output) {
		lines = append(lines, "  "+l)
	}
	return lines
}

// normalize cuts trailing blanks (ipvsadm pads its last column) and makes
// connection listings comparable.
func normalize(output string) []string {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t\r")
	}
	if lines[0] != "IPVS connection entries" || len(lines) < 2 {
		return lines
	}
	conns := lines[2:] // below the two headings
	for i := range conns {
		conns[i] = roundExpiry(conns[i])
	}
	slices.Sort(conns)
	return lines
}

// expiry matches the second column of ipvsadm -Lc: minutes and seconds.
var expiry = regexp.MustCompile(`^(\S+ +)(\d+):(\d\d)\b`)

// roundExpiry writes the time to expiry as seconds, to the nearest five. The
// printed time is cut to whole seconds, so the one that is passing is counted
// in: of 30 s, a little over 7 later, 22 are printed, and 23 keeps a distance
// from where the rounding turns.
func roundExpiry(line string) string {
	m := expiry.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	minutes, err1 := strconv.Atoi(m[2])
	seconds, err2 := strconv.Atoi(m[3])
	if err1 != nil || err2 != nil {
		return line
	}
	rounded := (minutes*60 + seconds + 1 + 2) / 5 * 5
	return fmt.Sprintf("%s~%ds%s", m[1], rounded, line[len(m[0]):])
}
