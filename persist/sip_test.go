package persist

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What get_callid of Linux 6.1 makes of these, followed by hand.
func TestCallID(t *testing.T) {
	for _, tt := range []struct{ message, want string }{
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: f81d4fae@foo.bar.com\r\n\r\n", "f81d4fae@foo.bar.com"},
		{"INVITE sip:a@b SIP/2.0\r\ncall-id:f81d4fae\r\n", "f81d4fae"},
		{"INVITE sip:a@b SIP/2.0\ni: x\nVia: y\n", "x"},
		{"INVITE sip:a@b SIP/2.0\r\nI : x@y\r\n", "x@y"},
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID:\r\n folded@here\r\n", "folded@here"},
		{"INVITE sip:a@b SIP/2.0\r\nVia: 1\r\n Call-ID: no\r\nCall-ID: yes\r\n", "yes"},
		{"INVITE sip:a@b SIP/2.0\r\nInfo: no\r\nCall-ID: yes\r\n", "yes"},
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: {a}[b]<c>~`'\"!%*+_-.:/?\\()\r\n", "{a}[b]<c>~`'\"!%*+_-.:/?\\()"},
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: x", ""},       // no line end
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: x y\r\n", ""}, // more than a word
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: x@\r\n", ""},  // no domain
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID x\r\n", ""},    // no colon
		{"Call-ID: on@the-first-line\r\n", ""},             // a request line comes first
		{"INVITE sip:a@b SIP/2.0\r\nVia: y\r\n\r\n", ""},   // none
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: " + strings.Repeat("x", 255) + "\r\n", strings.Repeat("x", 255)},
		{"INVITE sip:a@b SIP/2.0\r\nCall-ID: " + strings.Repeat("x", 256) + "\r\n", ""},
		{"", ""}, {"\r", ""}, {"\n\r\n", ""},
	} {
		got, ok := CallID([]byte(tt.message))
		if string(got) != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: %q %v, want %q", tt.message, got, ok, tt.want)
		}
	}
}

func FuzzCallID(f *testing.F) {
	f.Add([]byte("INVITE sip:a@b SIP/2.0\r\nCall-ID: f81d4fae@foo.bar.com\r\n\r\n"))
	f.Add([]byte("\ni:\r\n x@y\r\n"))
	f.Add([]byte("\nCall-ID: @\ni: z\n"))
	f.Fuzz(func(t *testing.T, m []byte) {
		id, ok := CallID(m)
		if ok && (len(id) == 0 || len(id) > maxEngineData || strings.ContainsAny(string(id), " \r\n\t")) {
			t.Fatalf("%q is no Call-ID", id)
		}
	})
}

// Calls are told apart, and listed with their data and the key without it.
func TestEngineKeys(t *testing.T) {
	tab := newTable(t, 10, nil)
	form := FormFor(false, 0, netip.Addr{})
	base := keyOf(&form, flow(17, "10.1.1.1:5060", "192.168.10.101:5060"), true)
	a, b := base.With([]byte("call-a")), base.With([]byte("call-b"))
	other := keyOf(&form, flow(17, "10.1.1.2:5060", "192.168.10.101:5060"), true)
	if a == b || a == base || other.With([]byte("call-a")) == a {
		t.Fatal("keys are not told apart")
	}
	id, err := tab.Insert(&a, tab.Hash(&a), 1, time.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	tab.Describe(id, base, SIP, []byte("call-a"))
	if _, ok := tab.Lookup(&b, tab.Hash(&b)); ok {
		t.Fatal("another call's template is found")
	}
	if engine, data := tab.Engine(id); tab.Key(id) != base || engine != SIP || data != "call-a" {
		t.Fatal(tab.Key(id), engine, data)
	}
	for tab.Advance(60*hz, 10) {
	}
	if engine, _ := tab.Engine(id); engine != "" || tab.Len() != 0 {
		t.Fatal("it is still described")
	}
}
