package ulvs_test

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ill is what is wrong with the words of a message; "" if nothing is.
func ill(m message) string {
	switch {
	case m.folder != "" && m.level != "stderr" && strings.HasPrefix(m.text, path.Base(m.folder)+": "):
		return "begins with its package's name, which piles up with others"
	case regexp.MustCompile(`%[+#]v|%T|%p`).MatchString(m.text):
		return "shows how Go sees a thing"
	case regexp.MustCompile(`(?i)\bfailed to\b|\bunable to\b|\berror:`).MatchString(m.text):
		return "say what cannot be done: \"cannot …\""
	}
	return ""
}

func TestWordsOfMessages(t *testing.T) {
	for _, m := range allMessages(t, sources(t)) {
		if what := ill(m); what != "" && m.folder != "fwmark" && m.folder != "internal/ipvsadm" { // iptables' and ipvsadm's words
			t.Errorf("%s: %s: %s", m.pos, m, what)
		}
	}
}

// Planted messages are found, whichever way they are given, and what is wrong with them.
func TestMessagesFinds(t *testing.T) {
	planted := file{path: "planted.go", text: `package p
const text = "a constant"
var ErrOne = errors.New("one")
type broken struct{ what string }
func (b *broken) Error() string { return "it is broken: " + b.what }
func complain(level int, text string, args ...any) { p.log.Warn(text, args...) }
func f(err error) error {
	what := "first"
	if err != nil { what = "second" }
	complain(1, "a complaint about "+name, "key", 1)
	p.log.Info("p: ready", "interface", name)
	_ = &broken{what: "to pieces"}
	bad := func(s string) error { return fmt.Errorf(s+"\n") }
	return errors.Join(fmt.Errorf("%w: failed to %+v", ErrOne, err), bad("worse"), errors.New(what), errors.New(text))
}
`}
	var found []string
	for _, m := range messagesOf(t, "p", []file{planted}) {
		found = append(found, strings.TrimSpace(m.String()+" "+strings.Join(m.names, " ")+" "+ill(m)))
	}
	want := []string{`error "one" ErrOne`, `error "it is broken: %s"`, `warn "a complaint about %s" key`,
		`info "p: ready" interface  begins with its package's name, which piles up with others`, `error "to pieces"`,
		`error "%w: failed to %+v" ErrOne shows how Go sees a thing`, `error "worse"`, `error "first"`, `error "second"`, `error "a constant"`}
	slices.Sort(found)
	slices.Sort(want)
	if !slices.Equal(found, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}
}
