package conformance

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// counted matches what IPVS's files and the exporter say of all services together.
var (
	countedFile   = regexp.MustCompile(`^(  [0~] )?( *[0-9A-F]+) ( *[0-9A-F]+) ( *[0-9A-F]+) ( *[0-9A-F]+) ( *[0-9A-F]+)$`)
	countedSeries = regexp.MustCompile(`(?m)^(node_ipvs_(?:connections|incoming_packets|incoming_bytes)_total) (\S+)$`)
	barrierStats  = regexp.MustCompile(`(?m)^UDP +\S+ +(\d+) +(\d+) +\d+ +(\d+) +\d+$`)
)

// barrierCounted is what the service of barriers has counted: connections, packets and bytes.
func (d *ulvsDirector) barrierCounted(ctx context.Context) (n [3]uint64, err error) {
	output, _, err := d.run(ctx, strings.Fields(fmt.Sprintf("ipvsadm -Ln --stats --exact -u %v", BarrierService)))
	if err != nil {
		return n, err
	}
	m := barrierStats.FindStringSubmatch(output)
	if m == nil {
		return n, fmt.Errorf("no counters of the barriers' service in %q", output)
	}
	for i := range n {
		if n[i], err = strconv.ParseUint(m[i+1], 10, 64); err != nil {
			return n, err
		}
	}
	return n, nil
}

// withoutBarriers takes barriers out of what is counted of all services together.
func withoutBarriers(output string, n [3]uint64) string {
	lines := strings.Split(output, "\n")
	for i, line := range lines {
		m := countedFile.FindStringSubmatch(line)
		if m == nil || ratesFollow(lines, i) {
			continue
		}
		text := m[1]
		for i, field := range m[2:] {
			v, _ := strconv.ParseUint(strings.TrimSpace(field), 16, 64)
			v -= [5]uint64{n[0], n[1], 0, n[2], 0}[i]
			text += fmt.Sprintf("%*X ", len(field), v)
		}
		lines[i] = strings.TrimSuffix(text, " ")
	}
	return countedSeries.ReplaceAllStringFunc(strings.Join(lines, "\n"), func(line string) string {
		m := countedSeries.FindStringSubmatch(line)
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return line
		}
		i := map[string]int{"node_ipvs_connections_total": 0, "node_ipvs_incoming_packets_total": 1, "node_ipvs_incoming_bytes_total": 2}[m[1]]
		return m[1] + " " + strconv.FormatFloat(v-float64(n[i]), 'g', -1, 64)
	})
}

// ratesFollow reports whether a line is of rates, which barriers change.
func ratesFollow(lines []string, i int) bool { return i > 0 && strings.Contains(lines[i-1], "Conns/s") }
