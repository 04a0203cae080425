package hostlink

import (
	"fmt"
	"net"
	"strings"
)

// others are the interfaces besides one that are there, in words.
func (l *Links) others(but Link) string {
	var names []string
	for _, is := range l.links {
		if is.There() && is.Given != but.Given {
			names = append(names, is.Name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ",")
}

// sayFirst warns of an interface that is not as it was given when all begins.
func (l *Links) sayFirst(is Link) {
	switch {
	case !is.There():
		l.log.Warn("interface is not there: going on without, and with it when it comes", "interface", is.Given,
			"others", l.others(is))
	case is.Name != is.Given && !l.called(is):
		l.log.Warn("interface has been renamed: going on with it by its new name, as nothing has the old one",
			"interface", is.Name, "given", is.Given)
	}
	if is.There() && !is.Up {
		l.sayDown(is)
	}
}

// called reports whether an interface has the name that was given besides its own
// (ip link property add altname).
func (l *Links) called(is Link) bool {
	found, err := l.kernel.LinkByName(is.Given)
	return err == nil && found.Attrs().Index == is.Index
}

func (l *Links) sayDown(is Link) {
	l.log.Warn("interface is down; going on when it is up again", "interface", is.Name)
}

func (l *Links) sayLost(was Link, moved bool) {
	if moved {
		l.log.Warn("interface was moved to another network namespace: going on without, and with it when it is back under the name that was given",
			"interface", was.Name, "given", was.Given, "others", l.others(was))
		return
	}
	l.log.Warn("interface was removed: going on without, and with the next one of the name that was given", "interface", was.Name,
		"given", was.Given, "others", l.others(was))
}

func (l *Links) sayBack(is Link) {
	l.log.Info("interface is there, and taken", "interface", is.Name, "address", net.HardwareAddr(is.MAC[:]).String(), "up", is.Up)
}

// sayChange says what is another than it was. Warnings are for what an operator may have to
// do something about.
func (l *Links) sayChange(was, is Link) {
	if was.Name != is.Name {
		l.log.Warn("interface was renamed: going on with it by its new name", "interface", is.Name, "was", was.Name,
			"given", is.Given)
	}
	if was.MAC != is.MAC {
		l.log.Warn("the address of an interface has changed: going on with frames to the new one", "interface", is.Name,
			"from", net.HardwareAddr(was.MAC[:]).String(), "to", net.HardwareAddr(is.MAC[:]).String())
	}
	if was.MTU != is.MTU {
		l.log.Warn("the MTU of an interface has changed: going on with the new one", "interface", is.Name, "from", was.MTU, "to", is.MTU)
	}
	switch {
	case was.Master == is.Master:
	case is.Master == 0:
		l.log.Warn("interface has no master any more: going on as without one", "interface", is.Name)
	default:
		l.log.Warn("interface was given a master: its packets are still taken from itself, before the master has them; "+
			"if clients' frames go to the master's address, give --interface that instead",
			"interface", is.Name, "master", l.name(is.Master))
	}
	switch {
	case was.Up && !is.Up:
		l.sayDown(is)
	case !was.Up && is.Up:
		l.log.Info("interface is up again", "interface", is.Name)
	}
}

// name says what an interface is called, and of what kind it is.
func (l *Links) name(index int) string {
	found, err := l.kernel.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return found.Attrs().Name + " (" + found.Type() + ")"
}
