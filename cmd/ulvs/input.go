package main

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
)

// warned is a director that tells its operator, when a service is added, that
// rules of the host's INPUT chain would match its packets: kernel IPVS sits
// behind that chain, ulvs before it.
type warned struct {
	*director.Director
	log    *slog.Logger
	follow bool // the mark rules are the host's
	facts  []ulvs.Fact
}

// AddService implements ulvs.Control.
func (w *warned) AddService(s ulvs.Service) error {
	err := w.Director.AddService(s)
	if err == nil {
		warnInput(w.log, s.ServiceKey)
	}
	return err
}

// warnInput looks for rules that drop, or that name the service's address. It
// is a hint and not a promise: what cannot be read is passed over.
func warnInput(log *slog.Logger, k ulvs.ServiceKey) {
	legacy := "/proc/net/ip_tables_names"
	if k.Is6() {
		legacy = "/proc/net/ip6_tables_names"
	}
	if names, err := os.ReadFile(legacy); err == nil && slices.Contains(strings.Fields(string(names)), "filter") {
		log.Warn("packets of the service do not pass the host's INPUT chain any more: look at iptables-legacy's rules", "service", k)
	}
	c, err := nftables.New()
	if err != nil {
		return
	}
	chains, err := c.ListChains()
	if err != nil {
		return
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookInput || !sees(ch.Table.Family, k) {
			continue
		}
		if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			log.Warn("packets of the service do not pass the host's INPUT chain any more, whose policy is drop", "service", k, "table", ch.Table.Name, "chain", ch.Name)
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			continue
		}
		if n := matching(rules, k.Addr); n > 0 {
			log.Warn("packets of the service do not pass the host's INPUT chain any more, which has rules that match them", "service", k, "table", ch.Table.Name, "chain", ch.Name, "rules", n)
		}
	}
}

func sees(f nftables.TableFamily, k ulvs.ServiceKey) bool {
	switch f {
	case nftables.TableFamilyINet:
		return true
	case nftables.TableFamilyIPv4:
		return !k.Is6()
	case nftables.TableFamilyIPv6:
		return k.Is6()
	}
	return false
}

// matching counts the rules that compare something with the address, or that
// refuse packets.
func matching(rules []*nftables.Rule, vip netip.Addr) (n int) {
	for _, r := range rules {
		if slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
			switch e := e.(type) {
			case *expr.Cmp:
				return vip.IsValid() && slices.Equal(e.Data, vip.AsSlice())
			case *expr.Verdict:
				return e.Kind == expr.VerdictDrop
			case *expr.Reject:
				return true
			}
			return false
		}) {
			n++
		}
	}
	return n
}
