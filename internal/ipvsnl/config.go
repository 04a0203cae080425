package ipvsnl

import (
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// setConfig sets those timeouts that are given; 0 keeps (ip_vs_genl_set_config).
func setConfig(to ulvs.Control, given [][]byte) error {
	seconds := func(attr int) time.Duration {
		if given[attr] == nil {
			return 0
		}
		return time.Duration(int32(order.Uint32(given[attr]))) * time.Second
	}
	return to.SetTimeouts(ulvs.Timeouts{TCP: seconds(attrTimeoutTCP), TCPFin: seconds(attrTimeoutTCPFin),
		UDP: seconds(attrTimeoutUDP)})
}

func getConfig(to ulvs.Control, _ [][]byte) ([]byte, error) {
	t, err := to.Timeouts()
	if err != nil {
		return nil, err
	}
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrTimeoutTCP, uint32(t.TCP/time.Second))
	e.Uint32(attrTimeoutTCPFin, uint32(t.TCPFin/time.Second))
	e.Uint32(attrTimeoutUDP, uint32(t.UDP/time.Second))
	return e.Encode()
}

// getInfo answers the version and the size of the connection table, which is all that there is
// outside of nested attributes.
func getInfo(to ulvs.Control, _ [][]byte) ([]byte, error) {
	code, size, err := info(to)
	if err != nil {
		return nil, err
	}
	e := netlink.NewAttributeEncoder()
	e.Uint32(infoVersion, code)
	e.Uint32(infoSize, size)
	return e.Encode()
}

// info is IPVS's version as a number (IP_VS_VERSION_CODE), and the size of the table.
func info(to ulvs.Control) (code, size uint32, err error) {
	text, n, err := to.Version()
	if err != nil {
		return 0, 0, err
	}
	var major, minor, patch uint32
	if _, err := fmt.Sscanf(text, "%d.%d.%d", &major, &minor, &patch); err != nil {
		return 0, 0, fmt.Errorf("version %q: %w", text, err)
	}
	return major<<16 | minor<<8 | patch, uint32(n), nil
}

// A sync daemon there is not yet. What is wrong in a request is said all the same
// (ip_vs_genl_set_daemon, _new_daemon, _del_daemon).

func newDaemon(_ ulvs.Control, given [][]byte) error {
	return daemon(given[attrDaemon], daemonState, daemonInterface, daemonSyncID)
}

func delDaemon(_ ulvs.Control, given [][]byte) error { return daemon(given[attrDaemon], daemonState) }

func daemon(value []byte, needed ...int) error {
	if value == nil {
		return unix.EINVAL
	}
	found, err := parse(value, daemonRules[:])
	if err != nil {
		return unix.EINVAL
	}
	for _, attr := range needed {
		if found[attr] == nil {
			return unix.EINVAL
		}
	}
	return unix.EOPNOTSUPP
}

func dumpDaemons(ulvs.Control, []byte) ([][]byte, error) { return nil, nil }
