package control_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/dataplanetest"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/control"
)

const eth0 = 2

// bed is a director over a plane in memory, whose clock stands.
type bed struct {
	*director.Director
	t     *testing.T
	plane *dataplanetest.Plane
}

func newBed(t *testing.T) *bed {
	t.Helper()
	plane, resolver := dataplanetest.New(), dataplanetest.NewResolver()
	resolver.SetLink(eth0, "eth0", dataplane.MAC{2, 0, 0, 0, 10, 100})
	for i := range 4 {
		mac := dataplane.MAC{2, 0, 0, 0, 10, byte(200 + i)}
		resolver.SetReachable(netip.MustParseAddr(fmt.Sprintf("192.168.10.%d", 200+i)), eth0, mac)
		resolver.SetReachable(netip.MustParseAddr(fmt.Sprintf("fd00:10::%d", 200+i)), eth0, mac)
	}
	d, err := director.New(director.Options{Plane: plane, Resolver: resolver, Clock: plane.Now, Connections: 2000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	plane.Attach(d)
	return &bed{Director: d, t: t, plane: plane}
}

// open delivers the first packet of a connection: TCP's SYN, or a datagram.
func (b *bed) open(proto ulvs.Protocol, client, virtual string) {
	b.t.Helper()
	src, dst := netip.MustParseAddrPort(client), netip.MustParseAddrPort(virtual)
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 10, 1}, DstMAC: []byte{2, 0, 0, 0, 10, 100}, EthernetType: layers.EthernetTypeIPv4}
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	if src.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(proto), SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	} else {
		ip = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(proto), SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	}
	stack := []gopacket.SerializableLayer{eth, ip}
	if proto == ulvs.TCP {
		h := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), SYN: true, Window: 1000}
		must(b.t, h.SetNetworkLayerForChecksum(ip))
		stack = append(stack, h)
	} else {
		h := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
		must(b.t, h.SetNetworkLayerForChecksum(ip))
		stack = append(stack, h, gopacket.Payload("question"))
	}
	buf := gopacket.NewSerializeBuffer()
	must(b.t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...))
	if r := b.plane.Deliver(dataplane.Frame{Data: buf.Bytes(), In: eth0})[0]; r.Verdict != dataplane.Transmit || r.Hop == nil {
		b.t.Fatalf("%v %s to %s was not forwarded: %+v", proto, client, virtual, r)
	}
}

// patience is how long a test waits for what is due: so long that it is not the machine's
// fault if it does not come.
const patience = time.Minute

// serve answers on a socket with what c does, until the test ends or end is
// called, which returns when Serve has. Nothing may go on running when the test
// has ended.
func serve(t *testing.T, c ulvs.Control) (client *control.Client, path string, end func()) {
	t.Helper()
	before := runtime.NumGoroutine()
	path = filepath.Join(t.TempDir(), "ulvs.sock")
	name, err := control.Reserve(path)
	must(t, err)
	l, err := name.Listen()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- control.Serve(ctx, l, c) }()
	end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not end")
		}
		must(t, name.Close())
	})
	t.Cleanup(func() {
		end()
		noneLeft(t, before)
	})
	return control.Dial(path), path, end
}

// noneLeft waits until there are no more goroutines than before.
func noneLeft(t *testing.T, before int) {
	t.Helper()
	for until := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	must(t, err)
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}))
}

func conns(c ulvs.Control) (list []ulvs.ConnStatus, err error) {
	err = c.Conns(func(s ulvs.ConnStatus) bool {
		list = append(list, s)
		return true
	})
	return list, err
}

func tcp(addr string) ulvs.ServiceKey { return key(ulvs.TCP, addr) }

func key(p ulvs.Protocol, addr string) ulvs.ServiceKey {
	a := netip.MustParseAddrPort(addr)
	return ulvs.ServiceKey{Protocol: p, Addr: a.Addr(), Port: a.Port()}
}

func dest(addr string, weight int32) ulvs.Destination {
	a := netip.MustParseAddrPort(addr)
	return ulvs.Destination{Addr: a.Addr(), Port: a.Port(), Weight: weight}
}

// asVisitor in the environment makes the test binary a client of the socket
// that it names, for the test that needs another user's process.
const asVisitor = "ULVS_TEST_VISIT"

func TestMain(m *testing.M) {
	if path := os.Getenv(asVisitor); path != "" {
		os.Exit(visit(path))
	}
	os.Exit(m.Run())
}
