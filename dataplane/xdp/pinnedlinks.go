package xdp

import (
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
)

// linkPin returns the name of an interface's link, in the mode in which it is attached,
// which an update keeps.
func linkPin(interfaceName string, native bool) string {
	mode := "generic-"
	if native {
		mode = "native-"
	}
	return linkPrefix + mode + dotless.Replace(interfaceName)
}

// dotless writes names without dots, which a BPF file system does not take (kernel/bpf/inode.c,
// bpf_lookup), and no two of them alike.
var dotless = strings.NewReplacer(".", "_", "_", "%_", "%", "%%")

// link returns the link that is there for an interface and mode, whatever the name that the
// interface was given then; nil if there is none. What else is pinned for the interface or its
// name goes. had says that a program of an earlier process was in front of it.
func (p *pins) link(name string, native bool, ifindex int) (l link.Link, had bool) {
	at := linkPin(name, native)
	for _, pin := range p.names() {
		if !strings.HasPrefix(pin, linkPrefix) {
			continue
		}
		found, its := p.linkAt(pin)
		named := pin == at || pin == linkPin(name, !native)
		switch {
		case found != nil && its == ifindex && l == nil && strings.HasPrefix(pin, linkPin("", native)):
			if pin == at || os.Rename(p.path(pin), p.path(at)) == nil {
				l, had = found, true
				continue
			}
			fallthrough
		case named || its == ifindex:
			had = had || its == ifindex || pin != at
			p.forget(pin)
		}
		if found != nil {
			_ = found.Close()
		}
	}
	return l, had
}

// linkAt returns a pinned link and the number of its interface, 0 if that is gone.
func (p *pins) linkAt(pin string) (l link.Link, ifindex int) {
	l, err := link.LoadPinnedLink(p.path(pin), nil)
	if err != nil {
		return nil, 0
	}
	if info, err := l.Info(); err == nil && info.XDP() != nil {
		ifindex = int(info.XDP().Ifindex)
	}
	return l, ifindex
}

// KeptInterfaces returns those of some interfaces that an earlier process had, by the names
// that it was given, and their numbers; 0 where one is gone.
func KeptInterfaces(dir string, names []string) map[string]int {
	found := map[string]int{}
	p := &pins{dir: dir}
	for _, name := range names {
		for _, native := range []bool{false, true} {
			pin := linkPin(name, native)
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
func (p *pins) keepLink(interfaceName string, native, had bool, l link.Link) error {
	name := linkPin(interfaceName, native)
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
			return linkPin(i, true) == name || linkPin(i, false) == name
		}) {
			p.forget(name)
		}
	}
}
