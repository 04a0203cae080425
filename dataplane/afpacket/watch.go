package afpacket

import (
	"context"
	"time"

	"github.com/google/nftables"
)

const (
	// watchInterval is how long a claim that somebody took away stays away.
	watchInterval = time.Second
	// sayInterval is how often it is said that frames are lost.
	sayInterval = time.Minute
)

// watch says which frames cannot be taken, or go past the plane, and puts the claims back when
// their table is gone: "nft flush ruleset", with which Debian's /etc/nftables.conf begins,
// takes everybody's tables.
func (p *Plane) watch(ctx context.Context) {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	var truncated uint64
	var said time.Time
	var past bypass
	defer past.closeAll()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if n := p.c.rxTruncated.Load(); n != truncated && time.Since(said) > sayInterval {
			p.log.Warn("frames were lost that are longer than 64 KiB and no TCP, or for which there was no memory (ip link set IF gro_max_size 65536 gso_max_size 65536, here and on the hosts beside)",
				"frames", n-truncated)
			truncated, said = n, time.Now()
		}
		past.look(p)
		switch back, err := p.claims.repair(); {
		case err != nil:
			p.log.Error("somebody removed the nftables table that keeps the host from the services' packets, and it cannot be made again", "err", err)
		case back:
			p.log.Warn("somebody removed the nftables table that keeps the host from the services' packets (nft flush ruleset?); it is back")
		}
	}
}

// repair replaces the claims if a table of theirs is gone.
func (c *claims) repair() (back bool, err error) {
	c.mu.Lock()
	whole := !c.active || c.ended || c.whole()
	last := c.last
	c.mu.Unlock()
	if whole {
		return false, nil
	}
	return true, c.replace(last)
}

// whole reports that all tables are there, or that nobody can say.
func (c *claims) whole() bool {
	there, whole := map[string]bool{}, true
	err := c.transact(func(conn *nftables.Conn) error {
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
		for _, t := range tables {
			there[t.Name] = true
		}
		for _, name := range c.interfaces {
			// One that has just gone may never have had its table.
			whole = whole && (there[tableOf(name).Name] || !exists(name))
		}
		return err
	})
	return err != nil || whole
}
