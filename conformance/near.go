package conformance

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// seconds matches a connection as a listing shows it, indented.
var seconds = regexp.MustCompile(`^(  \S+ +)~(\d+)s( .*)$`)

// rounding is by how much two rounded times may differ: one step, since each
// listing comes a little later than it might.
const rounding = 5

// outgoing matches a line of --stats. The kernel counts its own answers about a
// connection that is there as outgoing; ulvs counts none.
var outgoing = regexp.MustCompile(`^(  .*\S +\d+ +\d+ +)\d+( +\d+ +)\d+$`)

func withoutOutgoing(answers []string) []string {
	var out []string
	for _, line := range answers {
		if m := outgoing.FindStringSubmatch(line); m != nil {
			line = strings.Join(strings.Fields(m[1]+"-"+m[2]+"-"), " ")
		}
		out = append(out, line)
	}
	return out
}

// CompareNear is Compare, but for times to expiry that differ by one step of
// their rounding, and for what went out.
func CompareNear(want, got []string) string {
	want, got = sortConns(withoutOutgoing(want)), sortConns(withoutOutgoing(got))
	if len(want) == len(got) {
		for i := range want {
			if near(want[i], got[i]) {
				got[i] = want[i]
			}
		}
	}
	return Compare(want, got)
}

// sortConns sorts runs of connections without regard to times.
func sortConns(answers []string) []string {
	sorted := slices.Clone(answers)
	for i := 0; i < len(sorted); i++ {
		j := i
		for j < len(sorted) && seconds.MatchString(sorted[j]) {
			j++
		}
		slices.SortFunc(sorted[i:j], func(a, b string) int {
			return strings.Compare(seconds.ReplaceAllString(a, "$1$3 $2"), seconds.ReplaceAllString(b, "$1$3 $2"))
		})
		i = max(i, j-1)
	}
	return sorted
}

func near(a, b string) bool {
	m, n := seconds.FindStringSubmatch(a), seconds.FindStringSubmatch(b)
	if m == nil || n == nil || m[1] != n[1] || m[3] != n[3] {
		return false
	}
	x, err1 := strconv.Atoi(m[2])
	y, err2 := strconv.Atoi(n[2])
	return err1 == nil && err2 == nil && max(x-y, y-x) <= rounding
}
