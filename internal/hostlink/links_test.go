package hostlink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlink"
	"github.com/ulvs/ulvs/internal/lab"
)

func TestMain(m *testing.M) {
	code, ran, err := lab.Unshare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if !ran {
		code = m.Run()
	}
	os.Exit(code)
}

// user notes what it is told, and fails to take interfaces for as often as it should.
type user struct {
	mu    sync.Mutex
	told  []string
	fails int
	log   bytes.Buffer
}

func (u *user) note(format string, args ...any) {
	u.told = append(u.told, fmt.Sprintf(format, args...))
}

func (u *user) Take(l dataplane.Link) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fails > 0 {
		u.fails--
		u.note("fail %s", l.Given)
		return errors.New("not now")
	}
	u.note("take %s as %s %d", l.Given, l.Name, l.Index)
	return nil
}

func (u *user) Lose(l dataplane.Link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.note("lose %s as %s %d", l.Given, l.Name, l.Index)
}

func (u *user) Change(was, is dataplane.Link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if was.Name != is.Name {
		u.note("%s is %s", was.Name, is.Name)
	}
}

func (u *user) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.log.Write(p)
}

// A user is told of interfaces by their numbers, in the order of what has happened to them:
// when names are swapped, when one with the same number takes another's place, and when one
// cannot be taken at once, which is logged once.
func TestLinks(t *testing.T) {
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h, err := l.Add(lab.HostConfig{Name: "h"})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nl := h.Netlink()
	add := func(name string, index int) {
		t.Helper()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = name, index
		must(nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	}
	named := func(name string) netlink.Link {
		t.Helper()
		found, err := nl.LinkByName(name)
		must(err)
		return found
	}
	add("a", 101)
	add("b", 102)
	must(nl.LinkAddAltName(named("a"), "alias of a"))
	u := &user{}
	var links *hostlink.Links
	must(h.Do(func() (err error) {
		if _, err := hostlink.New(hostlink.Options{Names: []string{"typo", "worse"}}); err == nil ||
			err.Error() != "there is no interface typo, worse (ip link lists them)" {
			t.Errorf("no interface: %v", err)
		}
		if _, err := hostlink.New(hostlink.Options{Names: []string{"a", "alias of a"}}); err == nil ||
			err.Error() != "alias of a is another name of interface a, which is given too: give it once" {
			t.Errorf("an interface by both names: %v", err)
		}
		var out bytes.Buffer
		alias, err := hostlink.New(hostlink.Options{Names: []string{"alias of a"},
			Logger: slog.New(slog.NewTextHandler(&out, nil))})
		if err != nil {
			return err
		}
		alias.Close()
		if strings.Contains(out.String(), "renamed") {
			t.Errorf("an interface by its other name: %s", &out)
		}
		links, err = hostlink.New(hostlink.Options{Names: []string{"a", "b", "c", "b"},
			Logger: slog.New(slog.NewTextHandler(u, nil))})
		return err
	}))
	links.Use(u)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- links.Run(ctx, h.Do) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	told := func(want ...string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			u.mu.Lock()
			got := slices.Clone(u.told)
			u.mu.Unlock()
			if slices.Equal(got, want) {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("told %q, not %q", got, want)
			}
		}
		u.mu.Lock()
		u.told = nil
		u.mu.Unlock()
	}
	for _, to := range [][2]string{{"a", "x"}, {"b", "a"}, {"x", "b"}} {
		must(nl.LinkSetName(named(to[0]), to[1]))
		told(to[0] + " is " + to[1])
	}
	must(nl.LinkDel(named("b")))
	told("lose a as b 101") // the one that is called a is b's
	add("b", 104)           // a waits for no other, as its name is taken
	told("take a as b 104")
	must(nl.LinkDel(named("b")))
	told("lose a as b 104")
	must(nl.LinkSetName(named("a"), "y"))
	told("a is y")
	add("b", 105) // not in the place of a, which may come
	add("a", 106)
	told("take a as a 106")
	must(nl.LinkDel(named("a")))
	told("lose a as a 106")
	must(nl.LinkDel(named("b")))
	must(nl.LinkSetName(named("y"), "a"))
	told("y is a")
	must(nl.LinkDel(named("a")))
	told("lose b as a 102")
	u.mu.Lock()
	u.fails = 2
	u.mu.Unlock()
	add("c", 103)
	told("fail c", "fail c", "take c as c 103")
	must(nl.LinkDel(named("c")))
	add("c", 103)
	told("lose c as c 103", "take c as c 103")
	u.mu.Lock()
	defer u.mu.Unlock()
	if out := u.log.String(); strings.Count(out, "level=ERROR") != 1 || strings.Count(out, "interface cannot be taken; it is tried again each second") != 1 ||
		strings.Count(out, "interface was removed") != 5 || strings.Count(out, "interface was renamed") != 5 {
		t.Errorf("it said: %s", out)
	}
}
