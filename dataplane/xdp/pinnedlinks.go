package xdp

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// How names of links say where they are attached.
const (
	nativePin  = "native-"
	genericPin = "generic-" // an older daemon's
	ingressPin = "tcx-"
)

var pinKinds = []string{nativePin, genericPin, ingressPin}

// linkPin returns the name of an interface's link, with where it is attached, which an update keeps.
func linkPin(interfaceName, kind string) string {
	return linkPrefix + kind + dotless.Replace(interfaceName)
}

// linkPins are all that an interface's link may have.
func linkPins(interfaceName string) (list []string) {
	for _, kind := range pinKinds {
		list = append(list, linkPin(interfaceName, kind))
	}
	return list
}

// dotless writes names without dots, which a BPF file system does not take (kernel/bpf/inode.c,
// bpf_lookup), and no two of them alike.
var dotless = strings.NewReplacer(".", "_", "_", "%_", "%", "%%")

// link returns the link that is there for an interface, where it is to be attached, whatever the name that the
// interface was given then; nil if there is none. What else is pinned for the interface or its
// name is stale, but for what is of another kind that the interface has beside it. had says that a program of an
// earlier process was in front of it.
func (p *pins) link(name, kind, beside string, ifindex int) (l link.Link, had bool, stale []string) {
	at := linkPin(name, kind)
	for _, pin := range p.names() {
		if !strings.HasPrefix(pin, linkPrefix) || beside != "" && strings.HasPrefix(pin, linkPin("", beside)) {
			continue
		}
		found, its := p.linkAt(pin)
		named := slices.Contains(linkPins(name), pin)
		switch {
		case found != nil && its == ifindex && l == nil && strings.HasPrefix(pin, linkPin("", kind)):
			if pin == at || os.Rename(p.path(pin), p.path(at)) == nil {
				l, had = found, true
				continue
			}
			fallthrough
		case named || its == ifindex:
			// A filter's file says nothing of its interface: Attach finds it there.
			had = had || its == ifindex || pin != at || found == nil
			if pin == at {
				p.forget(pin)
			} else {
				stale = append(stale, pin)
			}
		}
		if found != nil {
			_ = found.Close()
		}
	}
	return l, had, stale
}

func (p *pins) forgetAll(list []string) {
	for _, pin := range list {
		p.forget(pin)
	}
}

// linkAt returns a pinned link and the number of its interface, 0 if that is gone.
func (p *pins) linkAt(pin string) (l link.Link, ifindex int) {
	l, err := link.LoadPinnedLink(p.path(pin), nil)
	if err != nil {
		return nil, 0
	}
	return l, interfaceOf(l)
}

// interfaceOf returns the number of a link's interface, 0 if that is gone, or in another network namespace
// than the calling thread: there the number is another interface's here, or none's.
func interfaceOf(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	ifindex, there := 0, true
	if x := info.XDP(); x != nil {
		ifindex = int(x.Ifindex)
		there = slices.Contains(attached(ifindex), info.Program)
	} else if x := info.TCX(); x != nil {
		ifindex = int(x.Ifindex)
		all, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
		there = err != nil && !errors.Is(err, unix.ENODEV) || err == nil &&
			slices.ContainsFunc(all.Programs, func(p link.AttachedProgram) bool { return p.ID == info.Program })
	}
	if !there {
		return 0
	}
	return ifindex
}

// KeptInterfaces returns those of some interfaces that an earlier process had, by the names
// that it was given, and their numbers; 0 where one is gone.
func KeptInterfaces(dir string, names []string) map[string]int {
	found := map[string]int{}
	p := &pins{dir: dir}
	for _, name := range names {
		for _, pin := range linkPins(name) {
			if _, err := os.Stat(p.path(pin)); dir == "" || err != nil {
				continue
			}
			l, ifindex := p.linkAt(pin)
			if l != nil {
				_ = l.Close()
			}
			found[name] = max(found[name], ifindex)
		}
	}
	return found
}

// keepLink pins a link of an interface, and notes it as this process's own if none was there.
func (p *pins) keepLink(interfaceName, kind string, had bool, l Attached) error {
	name := linkPin(interfaceName, kind)
	if err := p.keep(name, l); err != nil {
		return err
	}
	if !had && !slices.Contains(p.links, name) {
		p.links = append(p.links, name)
	}
	return nil
}

// forgetLinks takes the programs away from all interfaces but these.
func (p *pins) forgetLinks(interfaces []string) {
	if p == nil || p.lock < 0 {
		return
	}
	for _, name := range p.names() {
		if strings.HasPrefix(name, linkPrefix) && !slices.ContainsFunc(interfaces, func(i string) bool {
			return slices.Contains(linkPins(i), name)
		}) {
			p.forget(name)
		}
	}
}
