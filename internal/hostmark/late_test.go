package hostmark

import (
	"os"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An answer that comes after its question was given up must not be taken for the next
// question's, nor make each later one fail.
func TestLateAnswer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("nftables needs root")
	}
	c, err := dial()
	if err != nil {
		t.Skip(err)
	}
	defer c.close()
	if _, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{0, 0, 0, 0},
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n := 0
		err := c.get(unix.NFT_MSG_GETGEN, false, 0, nil, func(uint8, map[uint16][]byte) error { n++; return nil })
		if err != nil || n != 1 {
			t.Fatalf("%d answers, %v", n, err)
		}
	}
}
