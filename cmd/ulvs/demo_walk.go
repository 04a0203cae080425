package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// visit is one connection of a client: where from, where to, and who answered.
type visit struct {
	client string
	port   int
	server string
	close  func()
}

// visits makes connections and says who answered each. They stay open until
// hangUp, so that the listings show them.
func (s *show) visits(ctx context.Context, port int, clients ...string) (list []visit, err error) {
	for _, c := range clients {
		v, err := s.scene.visit(ctx, c, port)
		if err != nil {
			hangUp(list)
			return nil, fmt.Errorf("%s to port %d: %w", c, port, err)
		}
		list = append(list, v)
	}
	return list, nil
}

func hangUp(list []visit) {
	for _, v := range list {
		v.close()
	}
}

// tell shows who answered, one line for a run of visits with the same client.
func (s *show) tell(list []visit) {
	for i := 0; i < len(list); {
		v, n := list[i], 1
		for i+n < len(list) && list[i+n].client == v.client && list[i+n].port == v.port &&
			list[i+n].server == v.server {
			n++
		}
		times := ""
		if n > 1 {
			times = fmt.Sprintf(" (%d times)", n)
		}
		s.say("  %-13s %s:%-3d -> %s%s", v.client, vip, v.port, v.server, times)
		i += n
	}
}

// spread counts visits by server.
func spread(list []visit) map[string]int {
	n := map[string]int{}
	for _, v := range list {
		n[v.server]++
	}
	return n
}

func clients(from, to int) (list []string) {
	for i := from; i <= to; i++ {
		list = append(list, fmt.Sprintf("10.1.1.%d", i))
	}
	return list
}

func repeat(s string, n int) []string { return strings.Fields(strings.Repeat(s+" ", n)) }

func (s *show) pcc(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.runAll(ctx,
		"ipvsadm -A -t 192.168.10.101:0 -s rr -p 300",
		"ipvsadm -a -t 192.168.10.101:0 -r 192.168.10.200 -g",
		"ipvsadm -a -t 192.168.10.101:0 -r 192.168.10.201 -g",
		"ipvsadm -Ln"); err != nil {
		return err
	}
	s.say("One client, seven connections to port 80 and one to port 22:")
	web, err := s.visits(ctx, 80, repeat("192.168.10.1", 7)...)
	if err != nil {
		return err
	}
	defer hangUp(web)
	ssh, err := s.visits(ctx, 22, "192.168.10.1")
	if err != nil {
		return err
	}
	defer hangUp(ssh)
	s.tell(append(web, ssh...))
	s.check(len(spread(append(web, ssh...))) == 1, "eight connections of one client reached one server")
	if err := s.run(ctx, "ipvsadm -Ln"); err != nil {
		return err
	}
	s.say("Six more clients:")
	more, err := s.visits(ctx, 80, clients(1, 6)...)
	if err != nil {
		return err
	}
	defer hangUp(more)
	s.tell(more)
	n := spread(more)
	s.check(n["r0"] == 3 && n["r1"] == 3, "six clients were spread 3 and 3")
	return s.runAll(ctx, "ipvsadm -Ln", "ipvsadm -Lnc", "ipvsadm -Ln --persistent-conn")
}

func (s *show) ppc(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.runAll(ctx,
		"ipvsadm -A -t 192.168.10.101:80 -s wrr -p 300",
		"ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.201 -w 8 -g",
		"ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -w 10 -g",
		"ipvsadm -Ln"); err != nil {
		return err
	}
	s.say("Eleven connections of one client, then 40 clients, then ten of them again:")
	one, err := s.visits(ctx, 80, repeat("192.168.10.1", 11)...)
	if err != nil {
		return err
	}
	defer hangUp(one)
	s.tell(one)
	s.check(len(spread(one)) == 1, "eleven connections of one client reached one server")
	all, err := s.visits(ctx, 80, clients(1, 40)...)
	if err != nil {
		return err
	}
	defer hangUp(all)
	order := ""
	for _, v := range all {
		order += strings.TrimPrefix(v.server, "r")
	}
	s.say("  10.1.1.1 to 10.1.1.40 -> %s", order)
	// What kernel IPVS answered to the same commands and clients.
	const kernel = "1001010101001010101001010101001010101001"
	s.check(order == kernel, "40 clients were given servers in the kernel's order, 22 and 18")
	again, err := s.visits(ctx, 80, clients(1, 10)...)
	if err != nil {
		return err
	}
	defer hangUp(again)
	same := true
	for i, v := range again {
		same = same && v.server == all[i].server
	}
	s.check(same, "each of ten clients came back to its server")
	if err := s.run(ctx, "ipvsadm -Ln"); err != nil {
		return err
	}
	return s.restart(ctx)
}

// restart does what "service ipvsadm save" and "start" are for.
func (s *show) restart(ctx context.Context) error {
	s.say("The rules are saved, and the next director starts with them:")
	rules, err := s.scene.command(ctx, []string{"ipvsadm", "-Sn"})
	if err != nil {
		return err
	}
	file := filepath.Join(s.scene.dir, "ipvsadm.rules")
	s.say("director# ipvsadm -Sn > %s\n%s", file, strings.TrimRight(string(rules), "\n"))
	if err := os.WriteFile(file, rules, 0o600); err != nil {
		return err
	}
	if err := s.begin(ctx, "--rules", file); err != nil {
		return err
	}
	again, err := s.scene.command(ctx, []string{"ipvsadm", "-Sn"})
	if err != nil {
		return err
	}
	s.check(bytes.Equal(rules, again), "the next director has the same rules")
	return nil
}

func (s *show) marks(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.runAll(ctx,
		"iptables -t mangle -A PREROUTING -p tcp --dport 80 -d 192.168.10.101 -j MARK --set-mark 10",
		"iptables -t mangle -A PREROUTING -p tcp --dport 443 -d 192.168.10.101 -j MARK --set-mark 10",
		"iptables -t mangle -S PREROUTING",
		"ipvsadm -A -f 10 -s rr -p 300",
		"ipvsadm -a -f 10 -r 192.168.10.201 -g",
		"ipvsadm -a -f 10 -r 192.168.10.200 -g"); err != nil {
		return err
	}
	s.say("Six clients fill their basket over HTTP and pay over HTTPS:")
	basket, err := s.visits(ctx, 80, clients(1, 6)...)
	if err != nil {
		return err
	}
	defer hangUp(basket)
	payment, err := s.visits(ctx, 443, clients(1, 6)...)
	if err != nil {
		return err
	}
	defer hangUp(payment)
	same := true
	for i := range basket {
		s.tell([]visit{basket[i], payment[i]})
		same = same && basket[i].server == payment[i].server
	}
	s.check(same, "every client's basket and payment reached the same server")
	n := spread(basket)
	s.check(n["r0"] == 3 && n["r1"] == 3, "six clients were spread 3 and 3")
	_, err = s.scene.visit(ctx, "10.1.1.1", 22)
	s.check(errors.Is(err, syscall.ECONNREFUSED), "port 22, which has no mark, is the host's, which refuses (%v)", err)
	return s.runAll(ctx, "ipvsadm -Ln", "ipvsadm -Lnc")
}

// upload sends more than any buffer between here and there holds, with the
// offloads that veth has by default.
func (s *show) upload(ctx context.Context) error {
	body := make([]byte, 10<<20)
	_, _ = rand.Read(body)
	want := fmt.Sprintf("%x", sha256.Sum256(body))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+vip+"/upload", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := s.scene.browser("192.168.10.1").Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	s.say("  192.168.10.1 -> %s: %d bytes", resp.Header.Get("Server"), len(body))
	s.check(string(got) == want, "the server's SHA-256 of it is the client's")
	return nil
}
