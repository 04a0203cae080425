package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// realServer is HTTP on 80, HTTPS on 443, and on 22 a TCP service that greets.
// Each says its name.
type realServer struct {
	name      string
	listeners []net.Listener
	http      http.Server
}

func startServer(host *lab.Host, name string, cert tls.Certificate) (*realServer, error) {
	r := &realServer{name: name}
	r.http.Handler = http.HandlerFunc(r.serve)
	r.http.ReadHeaderTimeout = 10 * time.Second
	for _, port := range []int{80, 443, 22} {
		// A socket belongs to the namespace in which it was made.
		if err := host.Do(func() error {
			l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
			if err == nil {
				r.listeners = append(r.listeners, l)
			}
			return err
		}); err != nil {
			r.close()
			return nil, fmt.Errorf("cannot start server %s: %w", name, err)
		}
	}
	go r.http.Serve(r.listeners[0])
	go r.http.Serve(tls.NewListener(r.listeners[1], &tls.Config{Certificates: []tls.Certificate{cert}}))
	go r.greet(r.listeners[2])
	return r, nil
}

func (r *realServer) close() {
	_ = r.http.Close()
	for _, l := range r.listeners {
		_ = l.Close()
	}
}

// serve answers with its name, and to an upload with its SHA-256.
func (r *realServer) serve(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Server", r.name)
	if req.Method != http.MethodPost {
		fmt.Fprintf(w, "this is %s\n", r.name)
		return
	}
	h := sha256.New()
	if _, err := io.Copy(h, req.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%x", h.Sum(nil))
}

func (r *realServer) greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "Server: %s\r\n", r.name)
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

// serverIn finds the server's name in what it said.
func serverIn(answer string) string {
	for line := range strings.Lines(answer) {
		if name, ok := strings.CutPrefix(line, "Server: "); ok {
			return strings.TrimSpace(name)
		}
	}
	return "nobody"
}

// certificate returns one that nobody needs to trust.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
