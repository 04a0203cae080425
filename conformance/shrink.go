package conformance

import (
	"regexp"
	"slices"
	"strings"
)

// Shrink cuts a scenario down to fewer statements and packets for which differs
// still holds. It asks about several candidates at once, by differs' own
// choice: differs gets texts and returns the index of one that holds, or -1.
func Shrink(text string, differs func(candidates []string) int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for size := max(1, len(lines)/2); size >= 1; {
		smaller, ok := without(lines, size, differs)
		lines = smaller
		switch {
		case ok: // again with the same size: what it needed may be gone
		case size == 1:
			size = 0
		default:
			size /= 2
		}
	}
	for {
		var candidates []string
		for i, l := range lines {
			for _, simpler := range simplify(l) {
				c := slices.Clone(lines)
				c[i] = simpler
				candidates = append(candidates, strings.Join(c, "\n")+"\n")
			}
		}
		at := ask(candidates, differs)
		if at < 0 {
			return strings.Join(lines, "\n") + "\n"
		}
		lines = strings.Split(strings.TrimSpace(candidates[at]), "\n")
	}
}

// without leaves out a run of size lines, if it can.
func without(lines []string, size int, differs func([]string) int) ([]string, bool) {
	var candidates []string
	var kept [][]string
	// The last ones first: what follows the difference is not needed.
	for end := len(lines); end > 0; end -= size {
		begin := max(0, end-size)
		if strings.HasPrefix(lines[begin], "vip ") {
			begin++ // without its addresses, a scenario is another one
		}
		if begin == end {
			continue
		}
		c := slices.Concat(lines[:begin], lines[end:])
		kept = append(kept, c)
		candidates = append(candidates, strings.Join(c, "\n")+"\n")
	}
	if at := ask(candidates, differs); at >= 0 {
		return kept[at], true
	}
	return lines, false
}

const askAtOnce = 16

func ask(candidates []string, differs func([]string) int) int {
	first := 0
	for group := range slices.Chunk(candidates, askAtOnce) {
		if at := differs(group); at >= 0 {
			return first + at
		}
		first += len(group)
	}
	return -1
}

var optional = regexp.MustCompile(` (n=\d+|vary=\w+|ttl=\d+|size=\d+|-w \d+|-x \d+( -y \d+)?|-M \S+|-o|-p \d+|-b \S+|--pe \S+)\b`)

// simplify are a line's simpler forms.
func simplify(line string) (simpler []string) {
	for _, at := range optional.FindAllStringIndex(line, -1) {
		simpler = append(simpler, line[:at[0]]+line[at[1]:])
	}
	if strings.HasPrefix(line, "vip ") {
		words := strings.Fields(line)
		for i := 1; i < len(words) && len(words) > 2; i++ {
			simpler = append(simpler, strings.Join(slices.Concat(words[:i], words[i+1:]), " "))
		}
	}
	return simpler
}
