package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A host whose INPUT chain has rules that kernel IPVS would have honoured: the
// operator is told, for services that come by command and by --rules.
func TestInputWarning(t *testing.T) {
	s := newSite(t)
	if err := s.director.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
		accept := nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{Table: table, Name: "INPUT", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &accept})
		vip := netip.MustParseAddr("192.168.10.101")
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: vip.AsSlice()},
			&expr.Counter{},
		}})
		return c.Flush()
	}); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(s.dir, "rules")
	if err := os.WriteFile(rules, []byte("-A -t 192.168.10.101:80 -s rr\n-A -t 192.168.10.102:80 -s rr\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.dropInput6()
	d := s.start("--interface", "eth0", "--rules", rules)
	for _, c := range []string{"ipvsadm -A -u 192.168.10.101:53 -s rr", "ipvsadm -A -u 192.168.10.103:53 -s rr", "ipvsadm -A -u [fd00:10::101]:53 -s rr"} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			t.Fatal(out)
		}
	}
	s.stop(d)
	log := fmt.Sprint(d.Stderr)
	for _, want := range []string{"-t 192.168.10.101:80", "-u 192.168.10.101:53"} {
		if !strings.Contains(log, `level=WARN msg="packets of the service do not pass the host's INPUT chain any more, which has rules that match them" service="`+want+`" table=filter chain=INPUT rules=1`) {
			t.Errorf("nothing about %s in:\n%s", want, log)
		}
	}
	if want := `service="-u [fd00:10::101]:53" table=filter chain=INPUT`; !strings.Contains(log, "any more, whose policy is drop\" "+want) {
		t.Errorf("nothing about a policy of drop, %s, in:\n%s", want, log)
	}
	if strings.Contains(log, "192.168.10.102") || strings.Contains(log, "192.168.10.103") {
		t.Errorf("something about services that no rule names:\n%s", log)
	}
}

// dropInput6 has the director's host drop all of IPv6 that no rule accepts.
func (s *site) dropInput6() {
	s.t.Helper()
	if err := s.director.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		policy := nftables.ChainPolicyDrop
		c.AddChain(&nftables.Chain{Table: c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: "filter"}), Name: "INPUT",
			Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &policy})
		return c.Flush()
	}); err != nil {
		s.t.Fatal(err)
	}
}
