package main

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

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
	input  input
}

// AddService implements ulvs.Control.
func (w *warned) AddService(s ulvs.Service) error {
	err := w.Director.AddService(s)
	if err == nil {
		w.input.warn(w.log, s.ServiceKey)
	}
	return err
}

// Batch implements ulvs.Control.
func (w *warned) Batch(changes []ulvs.Change, answer func(n int, err error) bool) error {
	return w.Director.Batch(changes, func(n int, err error) bool {
		if err == nil && changes[n].Verb == ulvs.VerbAddService {
			w.input.warn(w.log, changes[n].Service.ServiceKey)
		}
		return answer(n, err)
	})
}

// input is what the host's INPUT chains say, as it was read a short time ago: to read it
// takes longer than to add a service.
type input struct {
	mu     sync.Mutex
	read   time.Time
	legacy [2]bool // iptables-legacy has a filter table, for IPv4 and IPv6
	chains []inputChain
}

type inputChain struct {
	*nftables.Chain
	rules []*nftables.Rule
}

// inputAge is for how long what was read counts.
const inputAge = time.Second

// refresh reads the chains. What cannot be read is passed over.
func (in *input) refresh() {
	if time.Since(in.read) < inputAge {
		return
	}
	defer func() { in.read = time.Now() }()
	for i, legacy := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		names, err := os.ReadFile(legacy)
		in.legacy[i] = err == nil && slices.Contains(strings.Fields(string(names)), "filter")
	}
	in.chains = nil
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return
	}
	defer c.CloseLasting()
	chains, err := c.ListChains()
	if err != nil {
		return
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookInput {
			continue
		}
		rules, _ := c.GetRules(ch.Table, ch)
		in.chains = append(in.chains, inputChain{ch, rules})
	}
}

// warn looks for rules that drop, or that name the service's address. It
// is a hint and not a promise.
func (in *input) warn(log *slog.Logger, k ulvs.ServiceKey) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.refresh()
	family := 0
	if k.Is6() {
		family = 1
	}
	if in.legacy[family] {
		log.Warn("packets of the service do not pass the host's INPUT chain any more: look at iptables-legacy's rules", "service", k)
	}
	for _, ch := range in.chains {
		if !sees(ch.Table.Family, k) {
			continue
		}
		if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			log.Warn("packets of the service do not pass the host's INPUT chain any more, whose policy is drop", "service", k, "table", ch.Table.Name, "chain", ch.Name)
			continue
		}
		if n := matching(ch.rules, k.Addr); n > 0 {
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
