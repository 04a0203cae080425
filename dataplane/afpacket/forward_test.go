package afpacket

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// upload sends size bytes from the client to the virtual address by TCP, and
// fails unless the server got them whole. It returns how many were sent again.
func (l *lab) upload(addr string, size int) (again uint64) {
	l.t.Helper()
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	var listener net.Listener
	l.in(server, func() {
		var err error
		listener, err = net.Listen("tcp", addr)
		l.must(err)
	})
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		sum := sha256.New()
		_, _ = io.Copy(sum, conn)
		_, _ = conn.Write(sum.Sum(nil))
	}()
	l.in(client, func() {
		conn, err := net.DialTimeout("tcp", addr, patience)
		l.must(err)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Write(data)
		l.must(err)
		l.must(conn.(*net.TCPConn).CloseWrite())
		got, err := io.ReadAll(conn)
		l.must(err)
		if want := sha256.Sum256(data); !bytes.Equal(got, want[:]) {
			l.fail("the server got something else than was sent")
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		l.must(err)
		var info *unix.TCPInfo
		l.must(raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }))
		l.must(err)
		again = info.Bytes_retrans
	})
	return again
}

// A TCP stream arrives whole with the offloads that veths have by default
// (the client leaves checksums and segmentation to the wire) and others.
func TestUpload(t *testing.T) {
	t.Parallel()
	const size = 10 << 20
	for _, c := range []struct {
		name      string
		ethtool   map[int]string // by host; 0 is the bridge
		addr      string
		wantLarge bool
	}{
		{"default", nil, vip4 + ":80", true},
		{"IPv6", nil, "[" + vip6 + "]:80", true},
		// A veth merges only what comes from a peer that does not segment.
		{"director merges", map[int]string{client: "eth0 tso off gso off tx off", 0: "p2 tso off", director: "eth0 gro on"}, vip4 + ":80", true},
		{"client segments and sums", map[int]string{client: "eth0 tso off gso off tx off"}, vip4 + ":80", false},
		{"director's interface does neither", map[int]string{director: "eth0 tso off gso off tx off"}, vip4 + ":80", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.vipOn(server)
			for host, features := range c.ethtool {
				l.in(host, func() { l.run(exec.Command("ethtool", strings.Fields("-K "+features)...)) })
			}
			h := &toHop{hop: l.hop(server)}
			p, stop := l.start(director, h, Options{})
			// Without it, IPv6 answers "no route" for an address that is not
			// its own, even where forwarding is off (ip6_pkt_drop).
			if err := p.Claim(both(80)); err != nil {
				t.Fatal(err)
			}
			again := l.upload(c.addr, size)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			n := p.Counters()
			t.Logf("%d frames, largest %d, %d bytes sent again: %v", h.seen, h.largest, again, n)
			// A busy machine loses some where a ring is full.
			if again > size/2 {
				t.Errorf("of %d bytes %d were sent again", size, again)
			}
			if (h.largest > 1514) != c.wantLarge {
				t.Errorf("largest frame %d: the test does not test what it means to", h.largest)
			}
			if n["tx_frames"] != uint64(h.seen) || n["tx_malformed"]+n["tx_too_big"]+n["tx_down"]+n["tx_no_hop"]+n["tx_no_sender"] != 0 {
				t.Errorf("frames were lost: %v", n)
			}
		})
	}
}

// The plane needs no root, only a user namespace.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	cmd := inUserNamespace("-test.run=^(TestUpload|TestClaim)$/default$", "-test.count=1", "-test.v")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a user namespace: %v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestUpload/default")) || !bytes.Contains(out, []byte("--- PASS: TestClaim")) {
		t.Errorf("the tests did not run:\n%s", out)
	}
}
