package forward

import (
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/persist"
)

// expiryBudget is how many timers are looked at under one hold of the lock.
const expiryBudget = 4096

func (tb *tables) advance(tick uint32) (more bool) {
	more = tb.conns.Advance(tick, expiryBudget)
	return tb.templates.Advance(tick, expiryBudget) || more
}

// prefetchConn reads what connExpired will need.
func (tb *tables) prefetchConn(id conn.ID) (sum uint32) {
	if dst := tb.index.dests[tb.conns.Dest(id)]; dst != nil {
		sum = dst.Bound()
	}
	if t := tb.conns.Template(id); t != 0 {
		sum += tb.templates.TouchRecord(persist.ID(t - 1))
	}
	return sum
}

// connExpired unbinds a connection that goes (ip_vs_conn.c,
// ip_vs_conn_expire).
func (tb *tables) connExpired(id conn.ID) {
	for tb.opener.acceptState(id); !tb.conns.CloseState(id, false); tb.opener.acceptState(id) {
	}
	dst := tb.index.dests[tb.conns.Dest(id)]
	dst.Unbind(false, tb.conns.Active(id))
	if t := tb.conns.Template(id); t != 0 {
		tb.templates.Release(persist.ID(t-1), tb.conns.Answered(id))
	}
}

// removeConn ends a connection now (ip_vs_conn_expire_now).
func (tb *tables) removeConn(id conn.ID) {
	tb.connExpired(id)
	tb.conns.End(id)
}

func (tb *tables) templateEnded(id persist.ID) {
	if tb.templates.Dest(id) >= uint32(len(tb.index.dests)) || tb.index.dests[tb.templates.Dest(id)] == nil {
		return // adopted, and of nobody
	}
	dst := tb.index.dests[tb.templates.Dest(id)]
	dst.Unbind(true, false)
}
