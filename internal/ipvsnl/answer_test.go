package ipvsnl

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
)

var update = flag.Bool("update", false, "write the golden files anew")

// newDirector is a director over a plane in memory.
func newDirector(t testing.TB) *director.Director {
	t.Helper()
	d, err := director.New(director.Options{Plane: dataplanetest.New(), Connections: 1000, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

var root = Caller{Port: 4711, Admin: true}

// What clients send, one after the other, and what they must be told: testdata/requests.txt has
// what keepalived, moby/ipvs and ipvsadm sent, and mistakes. A line that begins with a word in
// capitals is a request, those that are indented its answers.
func TestRequests(t *testing.T) {
	d := newDirector(t)
	golden(t, "testdata/requests.txt", func(text string) string {
		return requestAnswers(t, text, func(raw []byte) [][]byte { return Answer(d, root, raw) })
	})
}

// requestAnswers answers the lines of testdata/requests.txt.
func requestAnswers(t *testing.T, text string, ask func(raw []byte) [][]byte) string {
	t.Helper()
	return exchanged(text, func(line string) string { return shown(ask(written(t, line))) })
}

// exchanged has each line of a text answered that is none itself.
func exchanged(text string, answer func(line string) string) string {
	var got strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		got.WriteString(line)
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			got.WriteString(answer(line))
		}
	}
	return got.String()
}

// golden compares a file with what is made of it.
func golden(t *testing.T, file string, make func(text string) string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := make(string(text))
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Without CAP_NET_ADMIN nothing is told and nothing is changed; the controller answers all.
func TestWithoutRights(t *testing.T) {
	d := newDirector(t)
	for command := range uint8(cmdFlush + 1) {
		raw := (&answering{}).append(nil, FamilyID, unix.NLM_F_REQUEST, 1, genl(command, nil))
		got := shown(Answer(d, Caller{}, raw))
		want := "EPERM"
		if command == 0 || command == cmdSetInfo {
			want = "ENOTSUP" // EOPNOTSUPP by its other name
		}
		if !strings.Contains(got, "  "+want+" ") || strings.Count(got, "\n") != 1 {
			t.Errorf("command %d: %s", command, got)
		}
	}
	if got := shown(Answer(d, Caller{}, whoIs(FamilyName))); !strings.HasPrefix(got, "  controller ") {
		t.Errorf("the controller: %s", got)
	}
}

// What is not for IPVS is not ours.
func TestOurs(t *testing.T) {
	raw := written(t, "GET_INFO flags=0x5")
	for name, c := range map[string]struct {
		datagram []byte
		want     bool
	}{
		"IPVS":                      {whoIs("IPVS"), true},
		"a request":                 {raw, true},
		"nothing":                   {nil, false},
		"a longer name":             {whoIs("IPVSX"), false},
		"another family":            {whoIs("nl80211"), false},
		"cut":                       {raw[:len(raw)-1], false},
		"a header":                  {raw[:16], false},
		"a message of another kind": {(&answering{}).append(nil, 0x1d, unix.NLM_F_REQUEST, 1, genl(1, nil)), false},
	} {
		if got := Ours(c.datagram); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Several requests in a datagram are carried out in their order, each is answered, and an error
// does not end them. One that is cut ends the datagram.
func TestSeveral(t *testing.T) {
	d := newDirector(t)
	add := written(t, "NEW_SERVICE flags=0x5 SERVICE{1:0200 5:0a000000 6:727200 7:00000000ffffffff 8:00000000 9:ffffffff}")
	all := append(append(append(bytes.Clone(add), add...), written(t, "ZERO flags=0x1")...), written(t, "FLUSH flags=0x5")...)
	if got, want := shown(Answer(d, root, all)), "  ok flags=0x100, 16 bytes of the request\n"+
		fmt.Sprintf("  EEXIST flags=0x0, %d bytes of the request\n", len(add))+
		"  ok flags=0x100, 16 bytes of the request\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := Answer(d, root, append(bytes.Clone(add), all[:len(add)-1]...)); len(got) != 1 {
		t.Errorf("a cut request is answered:\n%s", shown(got))
	}
}

// A socket that wants its requests not back has the headers alone.
func TestCapAck(t *testing.T) {
	d := newDirector(t)
	raw := written(t, "DEL_SERVICE flags=0x5 SERVICE{1:0200 5:0a000000}")
	capped := root
	capped.CapAck = true
	if got := shown(Answer(d, capped, raw)); got != "  ESRCH flags=0x100, 16 bytes of the request\n" {
		t.Error(got)
	}
}

// A listing comes in datagrams of a page, each message whole, and its end in one of its own.
func TestLargeListing(t *testing.T) {
	d := newDirector(t)
	key := "SERVICE{1:0200 5:0a000000 6:727200 7:00000000ffffffff 8:00000000 9:ffffffff}"
	Answer(d, root, written(t, "NEW_SERVICE flags=0x5 "+key))
	const servers = 4000
	for i := range servers {
		line := fmt.Sprintf("NEW_DEST flags=0x5 %s DEST{1:0a00%04x 2:0050 3:03000000 4:01000000 5:00000000 6:00000000}", key, i+1)
		if got := shown(Answer(d, root, written(t, line))); !strings.HasPrefix(got, "  ok") {
			t.Fatal(got)
		}
	}
	all := Answer(d, root, written(t, "GET_DEST flags=0x305 "+key))
	n := 0
	for i, datagram := range all {
		if len(datagram) > largest {
			t.Errorf("datagram %d has %d bytes", i, len(datagram))
		}
		n += strings.Count(shown([][]byte{datagram}), "NEW_DEST")
	}
	if end := shown(all[len(all)-1:]); n != servers || end != "  done flags=0x2 00000000\n" {
		t.Errorf("%d servers, and in the end %s", n, end)
	}
}

// Whatever a datagram holds, answers are whole messages to the caller, and a request without
// rights changes nothing.
func FuzzAnswer(f *testing.F) {
	f.Add(whoIs(FamilyName))
	for _, line := range []string{
		"NEW_SERVICE flags=0x5 SERVICE{1:0200 2:0600 3:c0a84d65000000000000000000000000 4:0050 6:776c6300 7:01000000ffffffff 8:2c010000 9:ffffffff}",
		"NEW_DEST flags=0x5 SERVICE{1:0a00 5:0a000000} DEST{11:0a00 1:00000000000000000000000000000001 2:0050 3:03000000 4:01000000 5:00000000 6:00000000}",
		"GET_DEST flags=0x305 SERVICE{1:0200 5:0a000000}", "SET_CONFIG flags=0x5 4:01000000 5:02000000 6:03000000",
		"NEW_DAEMON flags=0x5 DAEMON{1:02000000 2:6574683000 3:07000000}", "GET_SERVICE flags=0x305",
	} {
		f.Add(written(f, line))
	}
	d := newDirector(f)
	f.Fuzz(func(t *testing.T, datagram []byte) {
		for _, out := range Answer(d, root, datagram) {
			for len(out) > 0 {
				if len(out) < unix.NLMSG_HDRLEN || int(order.Uint32(out)) > len(out) || order.Uint32(out[12:]) != root.Port {
					t.Fatalf("%x", out)
				}
				out = out[min(align(int(order.Uint32(out))), len(out)):]
			}
		}
		if err := d.Clear(); err != nil {
			t.Fatal(err)
		}
		Answer(d, Caller{}, datagram)
		if list, err := d.Services(); len(list) > 0 || err != nil {
			t.Fatal("changed without rights", list, err)
		}
		_ = d.SetTimeouts(ulvs.Timeouts{})
	})
}
