package lab

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// TakeXDP has the bridge's ends of a host's cables, those to come too, do what XDP programs in the
// drivers of the host's ends need: take the frames that those send, by a program of their own that passes
// all, and send whole ones, with their checksums and VLAN tags. It needs the rights that BPF does.
func (l *Lab) TakeXDP(h *Host) error {
	if h.byXDP {
		return nil
	}
	h.byXDP = true
	for _, port := range h.ports {
		if err := l.takeXDP(port); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	return nil
}

func (l *Lab) takeXDP(port string) error {
	const pass = 2 // XDP_PASS
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}})
	if err != nil {
		return fmt.Errorf("a program that passes all does not load: %w", err)
	}
	defer prog.Close()
	return l.Do(func() error {
		at, err := net.InterfaceByName(port)
		if err != nil {
			return nil // a cable that was taken away
		}
		passing, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: at.Index, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Errorf("a program that passes all at %s: %w", port, err)
		}
		l.passing = append(l.passing, passing)
		// The program has switched GRO on, which would hold segments back.
		return errors.Join(GRO.Set(port, false), Checksums.Set(port, false), TagsSent.Set(port, false))
	})
}
