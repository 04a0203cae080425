package fwmark

import (
	"bufio"
	"os"
	"strings"
)

// servicesFile is where names of ports are looked up, as getservbyname does.
const servicesFile = "/etc/services"

// services reads /etc/services: a name, a port/protocol, aliases, a comment
// behind #. The zero value knows no names. It is read when the first name or
// listing needs it, and anew for each command, so that changes show.
type services struct {
	path string
	read bool
	list []service
}

type service struct {
	names    []string
	port     uint16
	protocol string
}

func (s *services) load() {
	if s.read || s.path == "" {
		return
	}
	s.read = true
	f, err := os.Open(s.path)
	if err != nil {
		return // no names are known then, as with getservbyname
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		port, protocol, _ := strings.Cut(words[1], "/")
		n, ok := whole(port, 65535)
		if !ok || protocol == "" {
			continue
		}
		names := append([]string{words[0]}, words[2:]...)
		s.list = append(s.list, service{names, uint16(n), protocol})
	}
}

// port is the port of a service's name; protocol "" is any.
func (s *services) port(name, protocol string) (uint16, bool) {
	s.load()
	for _, e := range s.list {
		if protocol != "" && e.protocol != protocol {
			continue
		}
		for _, n := range e.names {
			if n == name {
				return e.port, true
			}
		}
	}
	return 0, false
}

// name is the first name of a port, or "".
func (s *services) name(port uint16, protocol string) string {
	s.load()
	for _, e := range s.list {
		if e.port == port && e.protocol == protocol {
			return e.names[0]
		}
	}
	return ""
}
