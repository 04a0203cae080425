package ipvsadm

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ulvs/ulvs"
)

func newPipe(t *testing.T) (*io.PipeReader, *io.PipeWriter) {
	t.Helper()
	pr, pw := io.Pipe()
	t.Cleanup(func() { pr.Close(); pw.Close() })
	return pr, pw
}

// nameServer is a resolver whose server answers by function; a nil answer is
// silence. asked counts the questions.
func nameServer(t *testing.T, answer func(dnsmessage.Question) *dnsmessage.Resource) (r *net.Resolver, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	serve := func(c net.Conn) {
		defer c.Close()
		for {
			var length [2]byte
			if _, err := io.ReadFull(c, length[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(query); err != nil {
				t.Errorf("query: %v", err)
				return
			}
			asked.Add(1)
			if answer == nil {
				continue
			}
			m.Response, m.Additionals = true, nil
			if a := answer(m.Questions[0]); a != nil {
				a.Header = dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: m.Questions[0].Type, Class: m.Questions[0].Class, TTL: 60}
				m.Answers = []dnsmessage.Resource{*a}
			} else {
				m.RCode = dnsmessage.RCodeNameError
			}
			reply, err := m.Pack()
			if err != nil {
				t.Errorf("reply: %v", err)
				return
			}
			c.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply))))
			c.Write(reply)
		}
	}
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go serve(theirs)
		return ours, nil
	}}, asked
}

func answers(q dnsmessage.Question) *dnsmessage.Resource {
	name := q.Name.String()
	switch {
	case q.Type == dnsmessage.TypePTR && name == "1.0.0.10.in-addr.arpa.":
		return &dnsmessage.Resource{Body: &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("one.example.net.")}}
	case q.Type == dnsmessage.TypeA && strings.HasPrefix(name, "one.example.net."):
		return &dnsmessage.Resource{Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}}
	}
	return nil
}

func TestNamesFromServer(t *testing.T) {
	r, asked := nameServer(t, answers)
	n := namesFrom("testdata/hosts", "testdata/services", r)
	one := netip.MustParseAddr("10.0.0.1")
	if a, ok := n.Host("one.example.net"); !ok || a != one {
		t.Errorf("%v %v", a, ok)
	}
	if _, ok := n.Host("two.example.net"); ok {
		t.Error("a name that is not there")
	}
	before := asked.Load()
	for range 3 {
		if name, ok := n.Addr(one); !ok || name != "one.example.net" {
			t.Errorf("%q %v", name, ok)
		}
		if name, ok := n.Addr(netip.MustParseAddr("10.0.0.2")); ok {
			t.Errorf("%q", name)
		}
	}
	if got := asked.Load() - before; got != 2 {
		t.Errorf("%d questions for two addresses", got)
	}
	if n.left != patience {
		t.Errorf("answers used up the patience: %v left", n.left)
	}
	before = asked.Load()
	n.Host("192.168.10.300")
	n.Host("vip")
	n.Addr(netip.MustParseAddr("192.168.10.101"))
	if got := asked.Load() - before; got != 0 {
		t.Errorf("%d questions about an address that is none and names in the hosts file", got)
	}
}

// TestNamesPatience: a silent name server costs its patience once, not once for
// each address.
func TestNamesPatience(t *testing.T) {
	r, asked := nameServer(t, nil)
	n := namesFrom("testdata/hosts", "testdata/services", r)
	n.left = 500 * time.Millisecond
	f := newFake()
	for i := range byte(50) {
		f.services = append(f.services, ulvs.ServiceStatus{Service: ulvs.Service{
			ServiceKey: ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: netip.AddrFrom4([4]byte{10, 0, 0, i}), Port: 80}, Scheduler: "rr"}})
	}
	stdout, _, exit := runWith(n, f, "", []string{"ipvsadm", "-L"})
	if n := asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times about 50 addresses", n)
	}
	if exit != 0 || !strings.Contains(stdout, "TCP  10.0.0.7:http rr\n") || !strings.Contains(stdout, "TCP  client:http rr\n") {
		t.Errorf("exit %d, %s", exit, stdout)
	}
}

func TestNamesFiles(t *testing.T) {
	missing := namesFrom("/nonexistent", "/nonexistent", nil)
	missing.left = 0
	if _, ok := missing.Service(80, ulvs.TCP); ok {
		t.Error("a service from nowhere")
	}
	if _, ok := missing.Host("vip"); ok {
		t.Error("a host from nowhere")
	}
	dir := t.TempDir()
	hosts := filepath.Join(dir, "hosts")
	text := "# comment\n\nnonsense\n10.0.0.1\n10.0.0.300 bad\nfd00::1 both\n10.0.0.2 both # other\n10.0.0.2 late\n"
	if err := os.WriteFile(hosts, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := namesFrom(hosts, "testdata/services", nil)
	n.left = 0
	if a, ok := n.Host("BOTH"); !ok || a.String() != "10.0.0.2" {
		t.Errorf("%v %v", a, ok)
	}
	for addr, want := range map[string]string{"fd00::1": "both", "10.0.0.2": "both", "10.0.0.1": ""} {
		if got, ok := n.Addr(netip.MustParseAddr(addr)); got != want || ok != (want != "") {
			t.Errorf("%s: %q", addr, got)
		}
	}
	for _, c := range []struct {
		service string
		proto   ulvs.Protocol
		port    uint16
	}{{"http", ulvs.TCP, 80}, {"www", ulvs.TCP, 80}, {"http", ulvs.UDP, 0}, {"isns", ulvs.SCTP, 3205}, {"", ulvs.TCP, 0}, {"#", ulvs.TCP, 0}, {"alsobroken", ulvs.TCP, 0}} {
		if got, ok := n.Port(c.service, c.proto); got != c.port || ok != (c.port != 0) {
			t.Errorf("%s/%v: %d", c.service, c.proto, got)
		}
	}
	if _, ok := NewSystemNames().Port("no such service", ulvs.TCP); ok {
		t.Error("this machine has a service of no such name")
	}
}
