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
	list := normalize(output)
	if words[0] == "cat" {
		list = normalizeFile(output)
	}
	for _, l := range list {
		lines = append(lines, "  "+l)
	}
	return lines
}

// normalizeFile has each line of a file end with "|", as blanks before it count there, and makes
// lists of connections comparable.
func normalizeFile(output string) []string {
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	conns := strings.HasPrefix(output, "Pro FromIP")
	for i := range lines {
		if ratesFollow(lines, i) {
			lines[i] = "~"
		}
		if conns {
			lines[i] = secondsLeft.ReplaceAllStringFunc(lines[i], func(s string) string {
				n, _ := strconv.Atoi(strings.TrimSpace(s))
				return fmt.Sprintf("%*s", len(s), fmt.Sprintf("~%d", (n+1+2)/5*5))
			})
		}
		lines[i] += "|"
	}
	if conns {
		slices.Sort(lines[1:])
	}
	return lines
}

// persistentFor matches the timeout of a persistent service in /proc/net/ip_vs, which is in ticks of
// the kernel's clock.
var persistentFor = regexp.MustCompile(`\bpersistent \d+ `)

// inSeconds has it be in seconds, of a clock that ticks so often in one.
func inSeconds(output string, hz int) string {
	return persistentFor.ReplaceAllStringFunc(output, func(s string) string {
		n, _ := strconv.Atoi(strings.Fields(s)[1])
		return fmt.Sprintf("persistent %ds ", n/hz)
	})
}

// secondsLeft matches the time to expiry in a line of /proc/net/ip_vs_conn or _conn_sync.
var secondsLeft = regexp.MustCompile(`\b {3,}\d+\b`)

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
