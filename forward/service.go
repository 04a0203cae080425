package forward

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/svctable"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// The ports of FTP: to FTPDataPort or one from Unprivileged on a data connection may be.
const (
	FTPPort      = 21
	FTPDataPort  = svctable.FTPDataPort
	Unprivileged = svctable.Unprivileged
)

// Service is a virtual service at work.
type Service struct {
	ulvs.Service
	scheduler  sched.Scheduler
	positioned sched.Positioned // the scheduler, or nil
	dests      []*Dest          // newest first, as the kernel's list; replaced, never edited
	form       persist.Form
	number     uint32      // of its state
	serial     uint32      // among the services that have had the number (preselect.Service.Renew)
	away       atomic.Bool // it is not served now (While); written under the forwarding lock
	// picks is what programs may open its connections by, or nil; usesPicks says that
	// its scheduler's picks lie there, and low that they may need a refill.
	picks          *preselect.Service
	usesPicks, low bool
	cycles         bool // the picks do not end
	flipped        bool // a real server has got overloaded, or is so no more, since they were made
	unopened       bool // the plane may not open all of its connections (opener.openable)
	share
	*state
}

// Number returns the number of the service's state.
func (s *Service) Number() uint32 { return s.number }

// Serial returns which of the services it is that have had the number.
func (s *Service) Serial() uint32 { return s.serial }

// Dests returns the service's real servers, newest first. The caller holds the control lock.
func (s *Service) Dests() []*Dest { return s.dests }

// Destination returns the service's real server at an address, which must be there.
func (s *Service) Destination(at netip.AddrPort) (*Dest, error) {
	if dst := s.find(at); dst != nil {
		return dst, nil
	}
	return nil, fmt.Errorf("%w: %v in %v", ulvs.ErrNoDestination, at, s.ServiceKey)
}

func (s *Service) schedDests() []*sched.Dest {
	list := make([]*sched.Dest, len(s.dests))
	for i, d := range s.dests {
		list[i] = &d.Dest
	}
	return list
}

func (s *Service) find(at netip.AddrPort) *Dest {
	for _, d := range s.dests {
		if d.conf.AddrPort() == at {
			return d
		}
	}
	return nil
}

// FTP reports a service that has FTP's data connections too.
func (s *Service) FTP() bool {
	return s.Port == FTPPort && s.Protocol == ulvs.TCP && s.Persistence.Timeout != 0
}

// Claim returns what one service with an address claims. A persistent FTP service
// has the ports of its data connections too; without persistence, what comes
// there is the host's (ip_vs_leave). What follows ISAKMP is claimed with it.
func (s *Service) Claim() []dataplane.Claim {
	if s.Mark != 0 {
		return nil
	}
	c := dataplane.Claim{Addr: s.Addr, Proto: uint8(s.Protocol), Port: s.Port, Service: s.number, Serial: s.serial,
		Away: s.away.Load()}
	if s.hasISAKMP() {
		return append(isakmpClaims(s.Addr), c)
	}
	if !s.FTP() {
		return []dataplane.Claim{c}
	}
	data, passive := c, c
	data.Port, data.Last = FTPDataPort, FTPDataPort // a service of that port goes before
	passive.Port, passive.Last = Unprivileged, 65535
	return []dataplane.Claim{c, data, passive}
}

func (s *Service) zeroAll() {
	s.Zero()
	for _, dst := range s.dests {
		dst.Zero()
	}
}

// retireScheduler has the scheduler let go of removed destinations.
func (s *Service) retireScheduler() {
	if c, ok := s.scheduler.(sched.Closer); ok {
		c.Close()
	}
}

// restorePosition has the scheduler go on from where its service's state says.
func (s *Service) restorePosition() {
	if s.positioned == nil {
		return
	}
	var last *sched.Dest
	for _, dst := range s.dests {
		if dst.ID == s.last {
			last = &dst.Dest
		}
	}
	s.positioned.SetPosition(last, s.current)
}
