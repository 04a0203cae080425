package bench

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/persist"
)

// resident is the memory that the kernel counts for this process, in bytes.
func resident(b *testing.B) int64 {
	b.Helper()
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if kib, ok := strings.CutPrefix(s.Text(), "Rss:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("no Rss in smaps_rollup")
	return 0
}

// BenchmarkMemory prints what a million live entries cost each, everything
// included: the growth of resident memory from before the table was made to
// when it holds as many entries as it may.
func BenchmarkMemory(b *testing.B) {
	const n = 1 << 20
	b.Run("connection", func(b *testing.B) {
		for b.Loop() {
			before := resident(b)
			t, err := conn.New(conn.Options{Max: n, Hz: 250, Expired: func(conn.ID) {}})
			if err != nil {
				b.Fatal(err)
			}
			for i := range uint64(n) {
				f := packet.Flow{i * 0x9e3779b97f4a7c15, 0x0406_5000_0400}
				id, err := t.Insert(&f, t.Hash(&f), 1, 0, 0, 0)
				if err != nil {
					b.Fatal(err)
				}
				t.TCP(id, packet.SYN, 0)
				t.TCP(id, packet.ACK, 0)
			}
			b.ReportMetric(float64(resident(b)-before)/n, "bytes/connection")
			t.Close()
		}
	})
	b.Run("template", func(b *testing.B) {
		for b.Loop() {
			before := resident(b)
			t, err := persist.New(persist.Options{Max: n, Hz: 250, Ended: func(persist.ID) {}})
			if err != nil {
				b.Fatal(err)
			}
			for i := range uint64(n) {
				k := persist.Key{i * 0x9e3779b97f4a7c15, 0x0406_5000_0000}
				id, err := t.Insert(&k, t.Hash(&k), 1, 5*time.Minute, 0)
				if err != nil {
					b.Fatal(err)
				}
				t.Control(id, 0)
			}
			b.ReportMetric(float64(resident(b)-before)/n, "bytes/template")
			t.Close()
		}
	})
}
