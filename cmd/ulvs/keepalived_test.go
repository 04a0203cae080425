package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/conformance"
	"github.com/ulvs/ulvs/internal/lab"
)

var (
	keepaliveds      = flag.Bool("keepalived", false, "TestKeepalived: what keepalived makes of its configuration, in user-mode Linux too")
	keepalivedInside = flag.String("keepalived-inside", "", "TestKeepalived is in user-mode Linux, and writes its listings to `FILE`")
)

// checked are real servers that keepalived looks at, and the director on which it runs.
type checked struct {
	t        *testing.T
	director *lab.Host
	server   [2]*lab.Host
	dir      string
	ends     map[string]func() // what listens, by "server port"
	list     func() string
	listings []string // of each step
}

// What keepalived makes of a configuration with all that it can say about virtual servers is listed
// as with kernel IPVS, at each step of servers that fail and come back, after a reload, and in the
// end.
func TestKeepalived(t *testing.T) {
	if !*keepaliveds {
		t.Skip("make pair plays it")
	}
	if _, err := exec.LookPath("keepalived"); err != nil {
		t.Skip(err)
	}
	if *keepalivedInside != "" {
		k := newChecked(t)
		k.list = func() string { return k.output("ipvsadm", "-Ln") + k.output("ipvsadm", "-Ln", "--thresholds") }
		k.play()
		k.must(os.WriteFile(*keepalivedInside, []byte(strings.Join(k.listings, "\n")), 0o644))
		return
	}
	k := newChecked(t)
	socket := filepath.Join(k.dir, "ulvs.sock")
	daemon := k.director.Command(context.Background(), "/proc/self/exe", "run", "--control", socket, "--interface", "eth0",
		"--plane", "afpacket", "--pin", noPins)
	log := new(said)
	daemon.Stderr = log
	k.must(daemon.Start())
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	log.await(t, "msg=ready")
	bridged := []string{"/proc/self/exe", "bridge", "exec", "--control", socket, "--"}
	k.list = func() string {
		return k.output(slices.Concat(bridged, []string{"ipvsadm", "-Ln"})...) +
			k.output(slices.Concat(bridged, []string{"ipvsadm", "-Ln", "--thresholds"})...)
	}
	k.play(bridged...)

	exe, err := os.Executable()
	k.must(err)
	here, err := os.Getwd()
	k.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out := filepath.Join(t.TempDir(), "out")
	console, err := conformance.Guest{Module: "../.."}.Run(ctx, "sh", "-c", fmt.Sprintf("ip link set lo up; cd %s; "+
		"exec %s -test.run '^TestKeepalived$' -test.v -keepalived -keepalived-inside %s >%s.log 2>&1", here, exe, out, out))
	if errors.Is(err, conformance.ErrNoGuest) {
		t.Skip(err)
	}
	want, failed := os.ReadFile(out)
	if failed != nil {
		text, _ := os.ReadFile(out + ".log")
		t.Fatalf("%v, %v: %s\n%s", err, failed, console, text)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(strings.Join(k.listings, "\n"), "\n")); d != "" {
		t.Errorf("-kernel +ulvs:\n%s", d)
	}
}

func newChecked(t *testing.T) *checked {
	t.Helper()
	l, err := lab.New(lab.Config{})
	k := &checked{t: t, dir: t.TempDir(), ends: map[string]func(){}}
	k.must(err)
	t.Cleanup(func() { l.Close() })
	host := func(name string, n int) *lab.Host {
		h, err := l.Add(lab.HostConfig{Name: name, Addrs: prefixes(fmt.Sprintf("192.168.10.%d/24", n), fmt.Sprintf("fd00:10::%d/64", n))})
		k.must(err)
		return h
	}
	k.director = host("director", 100)
	k.server = [2]*lab.Host{host("server0", 200), host("server1", 201)}
	return k
}

func (k *checked) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// output is what a command on the director prints.
func (k *checked) output(words ...string) string {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := k.director.Command(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("%q: %v: %s", words, err, out)
	}
	return string(out)
}

// up has a server listen at a port, and down not any more.
func (k *checked) up(server, port int) {
	k.t.Helper()
	var l net.Listener
	k.must(k.server[server].Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprint(":", port))
		return err
	}))
	k.ends[fmt.Sprint(server, " ", port)] = func() { l.Close() }
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	s := &http.Server{Handler: hello, ReadHeaderTimeout: patience}
	if port == 8443 {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{selfSigned(k.t)}})
	}
	go func() { _ = s.Serve(l) }()
}

func (k *checked) down(server, port int) { k.ends[fmt.Sprint(server, " ", port)]() }

// selfSigned is a certificate that a server has signed itself.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

// play is the course, in which keepalived is started by some words.
func (k *checked) play(by ...string) {
	check := filepath.Join(k.dir, "check")
	k.must(os.WriteFile(check, []byte("#!/bin/sh\nexec test -e "+filepath.Join(k.dir, "well")+"\n"), 0o700))
	well := func(yes bool) {
		if yes {
			k.must(os.WriteFile(filepath.Join(k.dir, "well"), nil, 0o600))
		} else {
			k.must(os.Remove(filepath.Join(k.dir, "well")))
		}
	}
	text, err := os.ReadFile("testdata/keepalived.conf")
	k.must(err)
	conf := filepath.Join(k.dir, "keepalived.conf")
	write := func(from, to string) {
		text = []byte(strings.ReplaceAll(string(text), from, to))
		k.must(os.WriteFile(conf, text, 0o600))
	}
	write("MISC-SCRIPT", check)
	for _, at := range [][2]int{{0, 80}, {1, 80}, {0, 8080}, {1, 8443}} {
		k.up(at[0], at[1])
	}
	well(true)
	c := k.director.Command(context.Background(), slices.Concat(by, []string{"keepalived"})[0], slices.Concat(by, []string{"keepalived", "--dont-fork",
		"--log-console", "--no-syslog", "--check", "-f", conf, "-p", filepath.Join(k.dir, "pid"), "-c", filepath.Join(k.dir, "checkers")})[1:]...)
	log := new(said)
	c.Stdout, c.Stderr = log, log
	k.must(c.Start())
	k.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	k.step("all are well", log)
	if said := log.String(); strings.Contains(said, "nknown keyword") || strings.Contains(said, "invalid") {
		k.t.Fatalf("keepalived does not know what it is told:\n%s", said)
	}
	k.down(0, 80)
	k.step("server 0 has no port 80", log)
	k.down(1, 80)
	k.step("no server has", log)
	k.up(1, 80)
	k.step("server 1 has again", log)
	k.up(0, 80)
	k.step("both have", log)
	k.down(0, 8080)
	k.down(1, 8443)
	well(false)
	k.step("HTTP, SSL and a script fail", log)
	k.up(0, 8080)
	k.up(1, 8443)
	well(true)
	k.step("they are well", log)
	write("weight 3", "weight 30")
	write("lb_algo sh", "lb_algo rr")
	write("persistence_timeout 120", "persistence_timeout 240")
	write("\treal_server 192.168.10.201 0 {\n\t\tweight 1\n\t}\n", "")
	k.must(c.Process.Signal(unix.SIGHUP))
	k.step("another configuration", log)
	k.must(c.Process.Signal(unix.SIGTERM))
	k.must(c.Wait())
	k.step("it has ended", log)
}

// step waits until what is listed changes no more, and keeps it. A failed check takes two rounds of a
// second.
func (k *checked) step(what string, log *said) {
	k.t.Helper()
	last := k.listed()
	for same, began := 0, time.Now(); same < 8; time.Sleep(time.Second / 2) {
		now := k.listed()
		if same++; now != last {
			last, same = now, 0
		}
		if time.Since(began) > patience {
			k.t.Fatalf("%s: it does not come to rest:\n%s\n%s", what, last, log)
		}
	}
	if n := len(k.listings); n > 0 && k.listings[n-1] == last {
		k.t.Errorf("%s: it changes nothing:\n%s\n%s", what, last, log)
	}
	k.listings = append(k.listings, "== "+what, last)
}

var tableSize = regexp.MustCompile(`\(size=\d+\)`)

func (k *checked) listed() string { return tableSize.ReplaceAllString(k.list(), "(size)") }
