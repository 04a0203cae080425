package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
)

// A flushed ruleset comes back by itself, so that the host does not get in between for
// long, and a second daemon does not get an interface that another one has.
func TestGuard(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d := s.start("--interface", "eth0", "--plane", "afpacket")
	if out, code := s.ulvs("", "ipvsadm", "-A", "-t", "192.168.10.101:80", "-s", "rr"); code != 0 {
		t.Fatal(out)
	}
	tables := func() int {
		t.Helper()
		n, _ := s.claims()
		return n
	}
	if tables() != 1 {
		t.Fatal("there is no table")
	}
	if out, code := s.ulvs("", "ulvs", "run", "--interface", "eth0", "--control", "./second.sock"); code != 1 || !strings.Contains(out, "another ulvs has interface eth0") {
		t.Errorf("a second daemon: exit %d: %s", code, out)
	}
	if tables() != 1 {
		t.Fatal("the second daemon took the table away")
	}
	s.flushRuleset()
	for deadline := time.Now().Add(patience); tables() == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the table does not come back")
		}
	}
	d.Stderr.(*said).await(t, "(nft flush ruleset?); it is back")
}

// flushRuleset removes all nftables tables of the director, as "nft flush ruleset" does.
func (s *site) flushRuleset() {
	s.t.Helper()
	if err := s.director.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	}); err != nil {
		s.t.Fatal(err)
	}
}

// claims counts the director's netdev tables, and their rules, of which services
// that are there have some.
func (s *site) claims() (tables, rules int) {
	s.t.Helper()
	if err := s.director.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		list, err := c.ListTablesOfFamily(nftables.TableFamilyNetdev)
		tables = len(list)
		if err != nil {
			return err
		}
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return err
		}
		for _, chain := range chains {
			of, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return err
			}
			rules += len(of)
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return tables, rules
}
