package ipvsadm

import (
	"fmt"
	"strings"
	"time"

	"github.com/ulvs/ulvs"
)

// listConns prints the connections and templates (-Lc), in the order in which
// Control gives them. Only --persistent-conn shows persistence engines.
func (r *runner) listConns(f format) *exit {
	engines := f.has(formatPersistentConn)
	titled := false
	title := func() {
		titled = true
		if engines {
			r.out.WriteString("IPVS connection entries\n" +
				"pro expire state       source             virtual            destination        pe name          pe_data\n")
		} else {
			r.out.WriteString("IPVS connection entries\n" +
				"pro expire state       source             virtual            destination\n")
		}
	}
	err := r.control.Conns(func(c ulvs.ConnStatus) bool {
		if !titled {
			title()
		}
		r.conn(&c, f, engines)
		return true
	})
	if err != nil {
		return listRefused(err)
	}
	if !titled {
		title()
	}
	return nil
}

func (r *runner) conn(c *ulvs.ConnStatus, f format, engines bool) {
	numeric := f.has(formatNumeric)
	client := r.name(c.Client, c.Protocol, numeric)
	virtual := r.name(c.Virtual, c.Protocol, numeric)
	dest := r.name(c.Dest, c.Protocol, numeric)
	seconds := max(0, int64(c.Expires/time.Second))
	expire := fmt.Sprintf("%02d:%02d", seconds/60, seconds%60)

	fmt.Fprintf(r.out, "%-3s %-6s %-11s %s %s ", c.Protocol, expire, c.State, pad(client, 18), pad(virtual, 18))
	if data := engineData(c.EngineData); engines && c.Engine != "" && data != "" {
		fmt.Fprintf(r.out, "%s %-18s %s\n", pad(dest, 16), c.Engine, data)
	} else {
		fmt.Fprintf(r.out, "%s\n", dest)
	}
}

// engineData is what can be shown of a persistence engine's data: its first
// word, as the original scans it. The data is whatever a client sent, so control
// characters do not reach the terminal.
func engineData(s string) string {
	words := strings.Fields(s)
	if len(words) == 0 {
		return ""
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, words[0])
}
