package conformance

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Recording is a scenario and a kernel's answers to it, as a file of
// testdata/reference holds them.
type Recording struct {
	// Kernel is the release that gave the answers; "" if there are none yet.
	Kernel string
	// Source is the scenario's text.
	Source string
	// Answers are the lines of the answers.
	Answers []string
}

const (
	kernelTitle   = "# kernel "
	scenarioTitle = "# scenario\n"
	answersTitle  = "# what the kernel did\n"
)

// ParseRecording reads a recording. One without kernel and answers, or a bare
// scenario, is a scenario that has not been played yet.
func ParseRecording(text string) (Recording, error) {
	var r Recording
	head, rest, ok := strings.Cut(text, scenarioTitle)
	if !ok {
		head, rest = "", text
	}
	r.Kernel = strings.TrimSpace(strings.TrimPrefix(head, kernelTitle))
	source, answers, answered := strings.Cut(rest, answersTitle)
	r.Source = strings.Trim(source, "\n") + "\n"
	if answered != (r.Kernel != "") {
		return Recording{}, fmt.Errorf("answers need a first line %q with the kernel's release", kernelTitle)
	}
	if strings.ContainsAny(r.Kernel, " \n") {
		return Recording{}, errors.New("more than a kernel's release before the scenario")
	}
	if answered {
		r.Answers = strings.Split(strings.TrimSuffix(answers, "\n"), "\n")
	}
	return r, nil
}

// String is the recording as ParseRecording reads it.
func (r Recording) String() string {
	text := scenarioTitle + r.Source
	if r.Kernel == "" {
		return text
	}
	return kernelTitle + r.Kernel + "\n" + text + "\n" + answersTitle + strings.Join(r.Answers, "\n") + "\n"
}

// Compare is Diff of two answers to the same scenario, but for what even the
// kernel answers differently from boot to boot: with --nosort, and in /proc/net/ip_vs, services come in
// the order of a hash over an address in the kernel's memory
// (net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_svc_hashkey). The order of a service's
// destinations is fixed, and is compared.
func Compare(want, got []string) string {
	return Diff(sortServices(want), sortServices(got))
}

// sortServices sorts the services of each such listing by their lines.
func sortServices(answers []string) []string {
	const indent = 2 // of every line of an output
	var sorted, group []string
	var services [][]string
	flush := func() {
		if group != nil {
			services = append(services, group)
		}
		slices.SortFunc(services, slices.Compare)
		for _, s := range services {
			sorted = append(sorted, s...)
		}
		services, group = nil, nil
	}
	listing := false
	for _, l := range answers {
		switch {
		case strings.HasPrefix(l, "$ "):
			flush()
			listing = strings.Contains(l, " --nosort") || strings.Contains(l, "cat /proc/net/ip_vs ")
			sorted = append(sorted, l)
		case !listing || strings.HasPrefix(l, "#"):
			flush()
			sorted = append(sorted, l)
		case group == nil && !serviceLine.MatchString(l[min(indent, len(l)):]):
			sorted = append(sorted, l) // a heading
		case serviceLine.MatchString(l[min(indent, len(l)):]):
			if group != nil {
				services = append(services, group)
			}
			group = []string{l}
		default:
			group = append(group, l)
		}
	}
	flush()
	return sorted
}

var serviceLine = regexp.MustCompile(`^(TCP|UDP|SCTP|FWM) |^-A `)

// Diff lists the lines in which two answers differ, with some that are the
// same around them: "-" is only in want, "+" only in got. It is "" when they
// are equal.
func Diff(want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	lines := align(want, got)
	const context = 2
	var b strings.Builder
	shown := -1 // index of the last line written
	for i, l := range lines {
		near := lines[max(0, i-context):min(len(lines), i+context+1)]
		if !slices.ContainsFunc(near, func(l string) bool { return l[0] != ' ' }) {
			continue
		}
		if i != shown+1 {
			b.WriteString("  …\n")
		}
		fmt.Fprintln(&b, l)
		shown = i
	}
	return b.String()
}

// align is the textbook longest common subsequence. Answers are short.
func align(want, got []string) []string {
	// common[i][j] is its length for want[i:] and got[j:].
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if want[i] == got[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var lines []string
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			lines = append(lines, "  "+want[i])
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "- "+want[i])
			i++
		default:
			lines = append(lines, "+ "+got[j])
			j++
		}
	}
	return lines
}
