package afpacket

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/internal/hostlink"
)

// openInterfaces takes the interfaces that are there when the plane is made, in the calling
// thread's network namespace.
func (p *Plane) openInterfaces() (err error) {
	owned := p.claims.owned()
	earlier := maps.Clone(owned)
	maps.Copy(earlier, p.opt.Earlier)
	p.links, err = hostlink.New(hostlink.Options{Names: p.opt.Interfaces, Earlier: earlier, Deleted: p.dropSender,
		Logger: p.log})
	if err != nil {
		return err
	}
	for _, l := range p.links.Links() {
		if _, had := owned[l.Given]; had && !l.There() {
			p.claims.gone = append(p.claims.gone, l.Given)
		}
		if !l.There() {
			continue
		}
		if err := p.receivers.open(l); err != nil {
			return err
		}
		if !p.receivers.hidden(l.Index) {
			p.claims.interfaces = append(p.claims.interfaces, l.Name)
		}
	}
	p.links.Use(&p.receivers)
	return nil
}

// Links implements dataplane.Following.
func (p *Plane) Links() []dataplane.Link { return p.links.Links() }

// Follow implements dataplane.Following.
func (p *Plane) Follow(u dataplane.LinkUser) { p.links.Use(u) }

// Facts implements dataplane.Described: how each interface is served.
func (p *Plane) Facts() []dataplane.Fact {
	served := map[int]string{}
	for _, r := range p.receivers.all() {
		if served[r.ifindex] = "AF_PACKET"; r.tap != nil {
			served[r.ifindex] = "AF_PACKET behind a program"
		}
	}
	return hostlink.Facts(p.links.Links(), served)
}

// dropSender ends sending by an interface that is gone.
func (p *Plane) dropSender(ifindex int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.senders.Load()
	s := old[ifindex]
	if s == nil {
		return
	}
	senders := maps.Clone(old)
	delete(senders, ifindex)
	p.senders.Store(&senders)
	s.close()
}

// receivers are a plane's, one for each interface that is there. They come and go with those.
type receivers struct {
	p   *Plane
	ctx context.Context // of the plane's run; nil before
	h   dataplane.Handler

	mu   sync.Mutex // guards list
	list []*receiver
}

var _ dataplane.LinkUser = (*receivers)(nil)

func (rs *receivers) all() []*receiver {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.Clone(rs.list)
}

// open opens what takes an interface's packets, and what sends by it: the first packet must
// not wait for a ring to be made.
func (rs *receivers) open(l dataplane.Link) error {
	r, err := newReceiver(rs.p, l)
	if err != nil {
		return err
	}
	if _, err := rs.p.openSender(l.Index); err != nil {
		r.close()
		return err
	}
	rs.mu.Lock()
	rs.list = append(rs.list, r)
	rs.mu.Unlock()
	return nil
}

// run starts those that are there.
func (rs *receivers) run(ctx context.Context, h dataplane.Handler) {
	rs.ctx, rs.h = ctx, h
	for _, r := range rs.all() {
		rs.start(r)
	}
}

func (rs *receivers) start(r *receiver) {
	r.ctx, r.cancel = context.WithCancel(rs.ctx)
	r.ended = make(chan struct{})
	go func() {
		err := r.run(r.ctx, rs.h)
		close(r.ended)
		if err == nil {
			return
		}
		if !errors.Is(err, errGone) {
			rs.p.log.Error("an interface's packets cannot be taken; it is tried again", "err", err)
		}
		// It is heard by then, if nothing was lost.
		pause(r.ctx, watchInterval)
		rs.p.links.Check(r.ctx, r.ifindex)
	}()
}

// stop ends them all, and waits until they have.
func (rs *receivers) stop() {
	for _, r := range rs.all() {
		r.stop()
	}
}

func (rs *receivers) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.list {
		r.countLosses()
		r.close()
	}
	rs.list = nil
}

// stop ends a receiver's run, and waits for that.
func (r *receiver) stop() {
	if r.ended != nil {
		r.cancel()
		r.sock.interrupt()
		<-r.ended
	}
}

// Take implements dataplane.LinkUser.
func (rs *receivers) Take(l dataplane.Link) error {
	if err := rs.open(l); err != nil {
		return err
	}
	rs.claim("") // before its packets are decided about
	for _, r := range rs.all() {
		if r.ifindex == l.Index {
			rs.start(r)
		}
	}
	return nil
}

// Lose implements dataplane.LinkUser.
func (rs *receivers) Lose(l dataplane.Link) {
	rs.mu.Lock()
	i := slices.IndexFunc(rs.list, func(r *receiver) bool { return r.ifindex == l.Index })
	var r *receiver
	if i >= 0 {
		r = rs.list[i]
		rs.list = slices.Delete(rs.list, i, i+1)
	}
	rs.mu.Unlock()
	if r != nil {
		r.stop()
		r.countLosses()
		r.close()
	}
	rs.p.dropSender(l.Index)
	rs.claim("")
}

// Change implements dataplane.LinkUser: tables go by an interface's name.
func (rs *receivers) Change(was, is dataplane.Link) {
	if was.Name != is.Name {
		rs.claim(was.Name)
	}
}

// claim has the claims on the interfaces that are there. One of them may have had another name.
func (rs *receivers) claim(was string) {
	links := slices.DeleteFunc(rs.p.links.Links(), func(l dataplane.Link) bool { return rs.hidden(l.Index) })
	if err := rs.p.claims.follow(hostlink.Names(links), was); err != nil && !errors.Is(err, ErrNoNftables) {
		rs.p.log.Error("the host cannot be kept from the services' packets on an interface; it is tried again",
			"interfaces", hostlink.Names(links), "err", err)
	}
}

// mostGone is of how many interfaces that are gone the tables stay.
const mostGone = 8

// follow has the claims on these interfaces. The table of one that is gone stays, so that the
// host is kept away from the moment on in which it is back, where the kernel does that (Linux
// 6.16); that of a name which an interface has no more goes.
func (c *claims) follow(names []string, was string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.interfaces {
		if !slices.Contains(names, name) && name != was && !slices.Contains(c.gone, name) {
			c.gone = append(c.gone, name)
		}
	}
	c.gone = slices.DeleteFunc(c.gone, func(name string) bool { return slices.Contains(names, name) })
	c.interfaces = names
	var err error
	if n := len(c.gone) - mostGone; n > 0 { // renamed before they went, again and again
		err = c.drop(c.gone[:n])
		c.gone = slices.Delete(c.gone, 0, n)
	}
	if was != "" && !slices.Contains(names, was) && c.active {
		err = errors.Join(err, c.drop([]string{was}))
	}
	if !c.active || c.ended {
		return err
	}
	c.chains = nil // the table of one that is back is of another interface
	return errors.Join(err, c.change(c.last))
}

// exists reports whether the calling thread's network namespace has an interface.
func exists(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	return err == nil && unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request) == nil
}

// owned are the interfaces whose table says that it is the daemon's, in the calling thread's
// network namespace.
func (c *claims) owned() map[string]int {
	found := map[string]int{}
	if c.owner == "" {
		return found
	}
	all, _ := c.tables() // what cannot be read is not there
	for name, t := range all {
		if slices.Contains(t.owners, c.owner) {
			found[name] = 0
		}
	}
	return found
}
