package bridge

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The supervisor is asked about sockets of generic netlink, about what is done with descriptors of
// the window, and about IPVS's options, and about nothing else.
func TestFilter(t *testing.T) {
	w := windowBelow(4096)
	raw, err := filter(w, false)
	if err != nil {
		t.Fatal(err)
	}
	program, all := bpf.Disassemble(raw)
	if !all {
		t.Fatal("it cannot be read")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	first, last := uint64(w.first), uint64(w.first+windowSize-1)
	for name, c := range map[string]struct {
		number int
		args   [6]uint64
		arch   uint32
		asks   bool
	}{
		"a socket of generic netlink":     {unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC}, arch, true},
		"a socket of routes":              {unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, arch, false},
		"a socket of TCP":                 {unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_STREAM, unix.NETLINK_GENERIC}, arch, false},
		"another processor's":             {unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC}, 3, false},
		"sendmsg at the window's begin":   {unix.SYS_SENDMSG, [6]uint64{first}, arch, true},
		"sendmsg at its end":              {unix.SYS_SENDMSG, [6]uint64{last}, arch, true},
		"sendmsg before it":               {unix.SYS_SENDMSG, [6]uint64{first - 1}, arch, false},
		"sendmsg behind it":               {unix.SYS_SENDMSG, [6]uint64{last + 1}, arch, false},
		"read from it":                    {unix.SYS_READ, [6]uint64{first + 1}, arch, true},
		"recvmmsg from it":                {unix.SYS_RECVMMSG, [6]uint64{first + 1}, arch, true},
		"read from standard input":        {unix.SYS_READ, [6]uint64{0}, arch, false},
		"close it":                        {unix.SYS_CLOSE, [6]uint64{first}, arch, false},
		"the first option":                {unix.SYS_GETSOCKOPT, [6]uint64{5, unix.IPPROTO_IP, 1152}, arch, true},
		"the last option":                 {unix.SYS_SETSOCKOPT, [6]uint64{5, unix.IPPROTO_IP, 1167}, arch, true},
		"an option of IP":                 {unix.SYS_SETSOCKOPT, [6]uint64{5, unix.IPPROTO_IP, unix.IP_TTL}, arch, false},
		"an option behind them":           {unix.SYS_SETSOCKOPT, [6]uint64{5, unix.IPPROTO_IP, 1168}, arch, false},
		"an option of TCP of that number": {unix.SYS_SETSOCKOPT, [6]uint64{5, unix.IPPROTO_TCP, 1152}, arch, false},
	} {
		// This virtual machine reads numbers of the network's byte order, the kernel's its own.
		data := binary.BigEndian.AppendUint32(nil, uint32(c.number))
		data = binary.BigEndian.AppendUint32(data, c.arch)
		data = append(data, make([]byte, 8)...)
		for _, arg := range c.args {
			data = binary.BigEndian.AppendUint32(data, uint32(arg))
			data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		if asks := uint32(got) == unix.SECCOMP_RET_USER_NOTIF; asks != c.asks {
			t.Errorf("%s: asks: %v", name, asks)
		}
	}
}

// The window lies below what a program may have, and below what select(2) reaches.
func TestWindow(t *testing.T) {
	for limit, want := range map[uint64]int{64: 16, 256: 208, 1024: 976, 1 << 20: 976} {
		if got := windowBelow(limit).first; got != want {
			t.Errorf("a limit of %d: from %d on, want %d", limit, got, want)
		}
	}
}
