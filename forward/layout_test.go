package forward

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
)

var update = flag.Bool("update", false, "write the golden files anew")

// describe lists a type's fields with their offsets and sizes.
func describe(to *strings.Builder, name string, at uintptr, t reflect.Type) {
	if t.Kind() != reflect.Struct {
		fmt.Fprintf(to, "%8d %-40s %v\n", at, name, t)
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		describe(to, name+"."+f.Name, at+f.Offset, f.Type)
	}
}

// TestLayout: a change of what outlives the process changes accel.Layout too, with which
// this file's name goes. What the journal holds is in package director's test.
func TestLayout(t *testing.T) {
	var got strings.Builder
	describe(&got, "kept", 0, reflect.TypeFor[kept]())
	describe(&got, "state", 0, reflect.TypeFor[state]())
	fmt.Fprintf(&got, "slots of %d bytes from %d on: key %d, next %d, stamp %d, state %d, count %d\n",
		shtab.SlotSize, shtab.HeaderSize, shtab.OffKey, shtab.OffNext, shtab.OffStamp, shtab.OffState, shtab.OffCount)
	fmt.Fprintf(&got, "rings of %d cells: fill %d at %d, completion %d at %d\n",
		shtab.RingCells, shtab.OffFill, shtab.OffFillAt, shtab.OffCompletion, shtab.OffCompletionAt)
	fmt.Fprintf(&got, "a thousand connections: %d and %d bytes, templates %d and %d\n",
		conn.MemorySize(1000), conn.RecordsSize(1000), persist.MemorySize(1000), persist.RecordsSize(1000))
	fmt.Fprintf(&got, "connections' states: owner %d, generation %d, pending %#x\n", conn.OwnerShift, conn.GenShift, conn.PendingFlag)
	fmt.Fprintf(&got, "records of %d services, %d bytes each: position %d, serial %d, by %d, version %d, length %d, wrap %d, at %d, keep %d, put %d\n",
		preselect.Services, preselect.Stride, preselect.OffPosition, preselect.OffSerial, preselect.OffBy,
		preselect.OffVersion, preselect.OffLength, preselect.OffWrap, preselect.OffAt, preselect.OffKeep, preselect.OffPut)
	fmt.Fprintf(&got, "%d bytes of sequences, in units of %d: up to %d picks of 8, %d buckets of %d, %d servers of %d\n",
		preselect.Pool, preselect.Unit, preselect.Picks, preselect.Buckets, preselect.BucketSize,
		preselect.MostCompared, preselect.ComparedSize)
	file := filepath.Join("testdata", fmt.Sprintf("layout-%d.golden", accel.Layout))
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got.String() != string(want) {
		t.Errorf("the layout is not %s (%v): change accel.Layout, and then run go test ./forward ./director -run Layout -update\n%s", file, err, &got)
	}
}
