package afpacket

import (
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// table is one of ulvs's nftables tables, by the chains in it that say whose it is.
type table struct{ owners []string }

// tablePrefix begins the names of our tables, before the interface's name, and
// ownerPrefix those of the chains without rules that say which daemon's a table is.
const (
	tablePrefix = "ulvs-"
	ownerPrefix = "of-"
)

// nameRunes are what nft takes in names.
const nameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-_."

// ownerChain returns the name of the chain that says whose a table is: what nft takes for a
// name, of at most 255 bytes.
func ownerChain(owner string) string {
	if owner == "" {
		return ""
	}
	name := ownerPrefix + strings.Map(func(r rune) rune {
		if r < 128 && strings.ContainsRune(nameRunes, r) {
			return r
		}
		return '_'
	}, owner)
	return name[:min(len(name), 200)]
}

// tables returns our tables of the network namespace, by interface.
func (c *claims) tables() (map[string]table, error) {
	all := map[string]table{}
	err := c.transact(func(conn *nftables.Conn) error {
		list, err := conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return nftError(err)
		}
		for _, t := range list {
			if name, ours := strings.CutPrefix(t.Name, tablePrefix); ours {
				all[name] = table{}
			}
		}
		if len(all) == 0 {
			return nil
		}
		chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return nftError(err)
		}
		for _, ch := range chains {
			name, ours := strings.CutPrefix(ch.Table.Name, tablePrefix)
			if t, ok := all[name]; ours && ok && strings.HasPrefix(ch.Name, ownerPrefix) {
				t.owners = append(t.owners, ch.Name)
				all[name] = t
			}
		}
		return nil
	})
	return all, err
}

// look notes which tables were there before the first of this plane's. The caller holds mu.
func (c *claims) look() {
	if c.earlier == nil {
		// What cannot be read is not there: making a table says why.
		if c.earlier, _ = c.tables(); c.earlier == nil {
			c.earlier = map[string]table{}
		}
	}
}

// sign says in a table whose it is, and not any more whose it was before the first claim,
// unless it is made anew.
func (c *claims) sign(conn *nftables.Conn, name string, anew bool) {
	t := conn.AddTable(tableOf(name))
	for _, other := range c.earlier[name].owners {
		if other != c.owner && !anew {
			conn.DelChain(&nftables.Chain{Table: t, Name: other})
		}
	}
	if c.owner != "" {
		conn.AddChain(&nftables.Chain{Table: t, Name: c.owner})
	}
}

// signed notes that nobody else's name is in our tables any more.
func (c *claims) signed() {
	for _, name := range c.interfaces {
		if _, was := c.earlier[name]; was {
			c.earlier[name] = table{}
		}
	}
}

// reset makes the tables of our interfaces anew: they say whose they are, for the sake of a
// program that stays when the plane ends, and claim nothing.
func (c *claims) reset() error {
	c.signed()
	c.chains = nil
	err := c.transact(func(conn *nftables.Conn) error {
		for _, name := range slices.Concat(c.gone, c.interfaces) {
			dropTable(conn, name)
			c.sign(conn, name, true)
		}
		return nil
	})
	c.active = err == nil
	return err
}

// sweep removes what an earlier daemon left on our interfaces, if nothing was claimed yet,
// which would have replaced it; and what the same one left on others.
func (c *claims) sweep(log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	gone := c.leftovers(log)
	if !c.active && !c.keep {
		gone = append(gone, c.interfaces...)
	}
	_ = c.drop(gone) // no nftables: nothing to do
	if !c.active && c.keep {
		_ = c.reset()
	}
}

// leftovers are the interfaces besides ours on which the same daemon had claims. Of others,
// whose daemon does not run, it says how they are removed.
func (c *claims) leftovers(log *slog.Logger) (list []string) {
	for name, t := range c.earlier {
		switch {
		case slices.Contains(c.interfaces, name) || slices.Contains(c.gone, name):
		case c.owner != "" && slices.Contains(t.owners, c.owner):
			log.Info("what an earlier daemon left on an interface that is not given any more is removed", "interface", name)
			list = append(list, name)
		case !Reserved(name):
			log.Warn("a daemon that does not run has left an nftables table, which keeps packets to its services from the host; to remove it: ulvs detach --interface "+name, "table", "netdev "+tablePrefix+name)
		}
	}
	return list
}

// Reserved reports whether a plane has an interface, in the network namespace of the
// calling thread.
func Reserved(interfaceName string) bool {
	ifi, err := net.InterfaceByName(interfaceName)
	if err != nil {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	return errors.Is(unix.Bind(fd, reservedName(ifi.Index)), unix.EADDRINUSE)
}

// withdraw removes the claims for good, unless they are to stay. Of a plane that never ran
// those go that were not there before.
func (c *claims) withdraw(ran bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	defer c.hangUp()
	if ran {
		if c.keep {
			return nil
		}
		return c.remove()
	}
	if !c.active {
		return nil
	}
	c.active = false
	return c.drop(slices.DeleteFunc(slices.Clone(c.interfaces), func(name string) bool {
		_, was := c.earlier[name]
		return was
	}))
}

// remove removes the tables of our interfaces. The caller holds mu.
func (c *claims) remove() error {
	if !c.active {
		return nil
	}
	c.active, c.chains = false, nil
	if c.keep && !c.ended {
		return c.reset()
	}
	c.signed()
	gone := c.gone
	c.gone = nil
	return c.drop(append(gone, c.interfaces...))
}

func (c *claims) drop(interfaces []string) error {
	if len(interfaces) == 0 {
		return nil
	}
	return c.transact(func(conn *nftables.Conn) error {
		for _, name := range interfaces {
			dropTable(conn, name)
		}
		return nil
	})
}

func dropTable(conn *nftables.Conn, name string) {
	t := tableOf(name)
	conn.AddTable(t) // so that deleting it cannot fail
	conn.DelTable(t)
}

// Leftover reports whether a plane has claims on an interface, or has left them, in the
// network namespace of the calling thread.
func Leftover(interfaceName string) bool {
	ns, err := currentNamespace()
	if err != nil {
		return false
	}
	defer ns.close()
	c := claims{ns: ns}
	defer c.hangUp()
	all, _ := c.tables()
	_, is := all[interfaceName]
	return is
}

// Withdraw removes the claims that planes have left in the network namespace of the calling
// thread: those on some interfaces, and those of an owner (Options.Owner) wherever they
// are; "" is none. It returns the interfaces that had some.
func Withdraw(owner string, interfaces ...string) (found []string, err error) {
	ns, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	defer ns.close()
	c := claims{ns: ns, owner: ownerChain(owner)}
	defer c.hangUp()
	all, err := c.tables()
	if errors.Is(err, ErrNoNftables) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for name, t := range all {
		if slices.Contains(interfaces, name) || c.owner != "" && slices.Contains(t.owners, c.owner) {
			found = append(found, name)
		}
	}
	return found, c.drop(found)
}
