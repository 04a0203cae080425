package director

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/ulvs/ulvs/internal/journal"
)

// CountJournal returns how many services and real servers the journal in a block makes,
// which is a copy of another process's.
func CountJournal(block []byte) (services, servers int, err error) {
	_, records, err := journal.Open(block)
	if err != nil {
		return 0, 0, err
	}
	made := map[keyRecord]map[netip.AddrPort]bool{}
	for _, text := range records {
		var c command
		if err := json.Unmarshal(text, &c); err != nil {
			return 0, 0, fmt.Errorf("%q: %w", text, err)
		}
		switch {
		case c.Verb == "service" && c.Service != nil:
			made[c.Service.keyRecord] = map[netip.AddrPort]bool{}
		case c.Verb == "delete service" && c.Key != nil:
			delete(made, *c.Key)
		case c.Verb == "clear":
			clear(made)
		case c.Verb == "server" && c.Key != nil && c.Destination != nil && made[*c.Key] != nil:
			made[*c.Key][netip.AddrPortFrom(c.Destination.Addr, c.Destination.Port)] = true
		case c.Verb == "delete server" && c.Key != nil:
			delete(made[*c.Key], c.Addr)
		}
	}
	for _, list := range made {
		services++
		servers += len(list)
	}
	return services, servers, nil
}
