package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

const (
	vip      = "192.168.10.101"
	dialTime = 5 * time.Second
)

// scene is the network of the demo, with the servers and the director running.
type scene struct {
	lab      *lab.Lab
	name     string // of its namespaces; "" where they have none
	client   *lab.Host
	director *lab.Host
	daemon   *lab.Cmd
	log      bytes.Buffer
	dir      string // the control socket's
	servers  []*realServer
}

func (s *scene) socket() string { return filepath.Join(s.dir, "ulvs.sock") }

func newScene(ctx context.Context) (s *scene, err error) {
	s = &scene{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "ulvs-demo-"); err != nil {
		return s, err
	}
	s.name = fmt.Sprintf("ulvs-demo-%d", os.Getpid())
	if s.lab, err = lab.New(lab.Config{Name: s.name}); err != nil {
		// Names are for root only.
		s.name = ""
		if s.lab, err = lab.New(lab.Config{}); err != nil {
			return s, err
		}
	}
	if err := s.addHosts(); err != nil {
		return s, err
	}
	return s, nil
}

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func (s *scene) addHosts() (err error) {
	back := []lab.Route{{Dst: netip.MustParsePrefix("10.1.1.0/24"), Via: netip.MustParseAddr("192.168.10.1")}}
	addrs := prefixes("192.168.10.1/24")
	for _, c := range clients(1, 40) {
		addrs = append(addrs, netip.MustParsePrefix(c+"/32"))
	}
	if s.client, err = s.lab.Add(lab.HostConfig{Name: "client", Addrs: addrs}); err != nil {
		return err
	}
	s.director, err = s.lab.Add(lab.HostConfig{Name: "director", Addrs: prefixes("192.168.10.100/24", vip+"/32"), Routes: back})
	if err != nil {
		return err
	}
	cert, err := certificate()
	if err != nil {
		return err
	}
	for i := range 2 {
		name := fmt.Sprintf("r%d", i)
		host, err := s.lab.Add(lab.HostConfig{
			Name: name, Addrs: prefixes(fmt.Sprintf("192.168.10.%d/24", 200+i)), Loopback: prefixes(vip + "/32"), Routes: back,
			// The virtual address is there, and nobody hears of it.
			Sysctls: [][2]string{
				{"net.ipv4.conf.all.arp_ignore", "1"}, {"net.ipv4.conf.all.arp_announce", "2"},
			},
		})
		if err != nil {
			return err
		}
		r, err := startServer(host, name, cert)
		if err != nil {
			return err
		}
		s.servers = append(s.servers, r)
	}
	return nil
}

// start runs a new director with these arguments, and stop ends it.
func (s *scene) start(ctx context.Context, args ...string) error {
	s.log.Reset()
	args = append([]string{"run", "--control", s.socket(), "--connections", "65536", "--pin", noPins}, args...)
	s.daemon = s.director.Command(ctx, "/proc/self/exe", args...)
	s.daemon.Args[0] = "ulvs"
	s.daemon.Stderr = &s.log
	s.daemon.Cancel = func() error { return s.daemon.Process.Signal(syscall.SIGTERM) }
	if err := s.daemon.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", s.socket()); err == nil {
			return c.Close()
		}
		if err := syscall.Kill(s.daemon.Process.Pid, 0); err != nil || time.Now().After(deadline) || ctx.Err() != nil {
			_ = s.stop() // it writes into the log until it has ended
			return fmt.Errorf("the director does not start: %s", strings.TrimSpace(s.log.String()))
		}
	}
}

func (s *scene) stop() error {
	if s.daemon == nil || s.daemon.Process == nil {
		return nil
	}
	_ = s.daemon.Process.Signal(syscall.SIGTERM)
	err := s.daemon.Wait()
	code := s.daemon.ProcessState.ExitCode()
	s.daemon = nil
	if err != nil && code > 0 {
		return fmt.Errorf("director: %w: %s", err, strings.TrimSpace(s.log.String()))
	}
	return nil
}

func (s *scene) close() error {
	errs := []error{s.stop()}
	for _, r := range s.servers {
		r.close()
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// command runs one of ulvs's commands in the director's namespace, under the
// name that was typed.
func (s *scene) command(ctx context.Context, words []string) ([]byte, error) {
	c := s.director.Command(ctx, "/proc/self/exe", words[1:]...)
	c.Args[0] = words[0]
	c.Env = append(os.Environ(), "ULVS_CONTROL="+s.socket())
	return c.CombinedOutput()
}

func (s *scene) picture() string {
	return `Four hosts on one Ethernet segment, each a network namespace:

  client   192.168.10.1, 10.1.1.1 to .40
  director 192.168.10.100, and the virtual address ` + vip + `
  r0, r1   192.168.10.200 and .201, the virtual address on lo, not announced
           (arp_ignore 1, arp_announce 2); HTTP on 80, HTTPS on 443, TCP on 22`
}

func (s *scene) lookInside() string {
	if s.name != "" {
		return fmt.Sprintf("It is still up. Look inside with:  ip netns exec %s-director env ULVS_CONTROL=%s %s ipvsadm -Ln",
			s.name, s.socket(), os.Args[0])
	}
	return fmt.Sprintf("It is still up. Look inside with:  nsenter -t %d -U -n --preserve-credentials env ULVS_CONTROL=%s %s ipvsadm -Ln",
		s.daemon.Process.Pid, s.socket(), os.Args[0])
}

// dial connects from one of the client's addresses.
func (s *scene) dial(ctx context.Context, client string, port int) (c net.Conn, err error) {
	d := net.Dialer{Timeout: dialTime, LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	err = s.client.Do(func() error {
		c, err = d.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", vip, port))
		return err
	})
	return c, err
}

// visit connects from client to a port of the virtual address, as a browser or
// another client would, and learns which server answers.
func (s *scene) visit(ctx context.Context, client string, port int) (visit, error) {
	v := visit{client: client, port: port}
	c, err := s.dial(ctx, client, port)
	if err != nil {
		return v, err
	}
	v.close = func() { c.Close() }
	_ = c.SetDeadline(time.Now().Add(dialTime))
	switch port {
	case 443:
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // the demo's own certificate, made a moment ago
		fallthrough
	case 80:
		_, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", vip)
	}
	if err != nil {
		v.close()
		return v, err
	}
	answer := make([]byte, 512)
	n, err := c.Read(answer)
	if err != nil && !errors.Is(err, io.EOF) {
		v.close()
		return v, err
	}
	v.server = serverIn(string(answer[:n]))
	return v, nil
}

// browser returns an HTTP client at one of the client's addresses.
func (s *scene) browser(client string) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx, client, 80) },
	}}
}
