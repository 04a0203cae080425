package control_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// ask sends one request as any tool would, and returns the whole answer.
func ask(t *testing.T, path, method, url string, length int64, body io.Reader) (status int, text string) {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	req, err := http.NewRequest(method, "http://ulvs"+url, body)
	must(t, err)
	req.ContentLength = length
	req.Close = true
	// The daemon may stop listening before all is said.
	go func() { _ = req.Write(c) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	must(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(raw)
}

const service = `{"protocol":6,"addr":"192.168.10.102","port":80,"scheduler":"rr"}`

// What no client of ours would send is answered with what is wrong with it,
// changes nothing, and leaves the daemon alive.
func TestBadRequests(t *testing.T) {
	b := newBed(t)
	client, path, _ := serve(t, b)
	must(t, client.AddService(ulvs.Service{ServiceKey: tcp(web)}))
	for _, c := range []struct {
		name, method, url, body string
		status                  int
		kind, says              string // kind "-": not from a verb
	}{
		{"no body", "POST", "/v1/service/add", "", 400, "invalid", "EOF"},
		{"no JSON", "POST", "/v1/service/add", "-t 192.0.2.1:80", 400, "invalid", "invalid character"},
		{"half of it", "POST", "/v1/service/add", service[:30], 400, "invalid", "unexpected EOF"},
		{"two objects", "POST", "/v1/service/add", service + service, 400, "invalid", "more behind"},
		{"something behind", "POST", "/v1/service/add", service + "]", 400, "invalid", "invalid character"},
		{"a list", "POST", "/v1/service/add", "[" + service + "]", 400, "invalid", "array"},
		{"null", "POST", "/v1/service/add", "null", 400, "invalid", "address or a firewall mark"},
		{"an empty object", "POST", "/v1/service/add", "{}", 400, "invalid", "address or a firewall mark"},
		{"unknown field", "POST", "/v1/service/add", `{"protocol":6,"adr":"192.168.10.102"}`, 400, "invalid", `"adr"`},
		{"unknown field within", "POST", "/v1/destination/add", `{"service":{"mark":1},"destination":{"wieght":1}}`, 400, "invalid", `"wieght"`},
		{"wrong type", "POST", "/v1/service/add", `{"protocol":"tcp"}`, 400, "invalid", "protocol"},
		{"port too large", "POST", "/v1/service/add", `{"protocol":6,"addr":"192.168.10.102","port":65536}`, 400, "invalid", "65536"},
		{"negative mark", "POST", "/v1/service/add", `{"mark":-1}`, 400, "invalid", "-1"},
		{"no address", "POST", "/v1/service/add", `{"protocol":6,"addr":"www.example.org","port":80}`, 400, "invalid", "www.example.org"},
		{"weight too large", "POST", "/v1/destination/add", `{"service":{},"destination":{"weight":2147483648}}`, 400, "invalid", "2147483648"},
		{"an unknown service", "POST", "/v1/destination/add", `{}`, 404, "no-service", "no such service"},
		{"deep", "POST", "/v1/clear", strings.Repeat("[", 20000), 400, "invalid", "depth"},
		{"arguments for none", "POST", "/v1/clear", `{"really":true}`, 400, "invalid", "really"},
		{"a batch with an unknown field", "POST", "/v1/batch", `[{"do":"clear"},{"do":"clear","all":true}]`, 400, "invalid", "all"},
		{"a batch that ends early", "POST", "/v1/batch", `[{"do":"clear"},`, 400, "invalid", "EOF"},
		{"timeouts as words", "POST", "/v1/timeouts", `{"tcp":"15m"}`, 400, "invalid", "tcp"},
		{"unknown path", "POST", "/v1/service/rename", service, 404, "-", "not found"},
		{"unknown version", "GET", "/v2/services", "", 404, "-", "not found"},
		{"root", "GET", "/", "", 404, "-", "not found"},
		{"a path out", "GET", "/v1/../../etc/passwd", "", 404, "-", ""},
		{"look as verb", "POST", "/v1/services", "{}", 405, "-", "Method Not Allowed"},
		{"verb as look", "GET", "/v1/clear", "", 405, "-", "Method Not Allowed"},
		{"other method", "DELETE", "/v1/service/delete", service, 405, "-", "Method Not Allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, text := ask(t, path, c.method, c.url, int64(len(c.body)), strings.NewReader(c.body))
			if status != c.status && (c.name != "a path out" || status/100 != 3) {
				t.Errorf("status %d, want %d: %s", status, c.status, text)
			}
			var e struct{ Error, Kind string }
			if c.kind != "-" {
				if err := json.Unmarshal([]byte(text), &e); err != nil || e.Kind != c.kind {
					t.Errorf("%q: kind %q, want %q; %v", text, e.Kind, c.kind, err)
				}
				text = e.Error
			}
			if !strings.Contains(text, c.says) || len(text) > 300 {
				t.Errorf("says %q, not %q", text, c.says)
			}
			alive(t, client)
		})
	}
}

// alive checks that the daemon has its one service and works.
func alive(t *testing.T, client *control.Client) {
	t.Helper()
	list, err := client.Services()
	if err != nil || len(list) != 1 || list[0].ServiceKey != tcp(web) {
		t.Errorf("the daemon has %v, %v", list, err)
	}
	k := tcp("192.168.10.101:8080")
	if err := client.AddService(ulvs.Service{ServiceKey: k}); err != nil {
		t.Error(err)
	}
	if err := client.DeleteService(k); err != nil {
		t.Error(err)
	}
}

// spaces is a body of n blanks.
type spaces int64

func (s *spaces) Read(b []byte) (int, error) {
	if *s <= 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), int64(*s))]
	for i := range b {
		b[i] = ' '
	}
	*s -= spaces(len(b))
	return len(b), nil
}

// A request of more than 16 MiB is refused, whether it says so or not.
func TestOversized(t *testing.T) {
	client, path, _ := serve(t, newBed(t))
	must(t, client.AddService(ulvs.Service{ServiceKey: tcp(web)}))
	size := spaces(16<<20 + 1)
	status, text := ask(t, path, "POST", "/v1/marks/restore", -1, &size)
	if status != 400 || !strings.Contains(text, "too large") || !strings.Contains(text, `"kind":"invalid"`) {
		t.Errorf("%d: %s", status, text)
	}
	alive(t, client)
}

// What is no HTTP at all, or ends in the middle, does no harm either.
func TestBadConnections(t *testing.T) {
	client, path, _ := serve(t, newBed(t))
	must(t, client.AddService(ulvs.Service{ServiceKey: tcp(web)}))
	for _, say := range []string{
		"", "\n", "hello\r\n\r\n", "\x00\x01\x02\xff\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00",
		"GET /v1/services HTTP/9.9\r\n\r\n",
		"POST /v1/service/add HTTP/1.1\r\nHost: ulvs\r\nContent-Length: 1000\r\n\r\n{\"protocol\":6",
		"POST /v1/clear HTTP/1.1\r\nHost: ulvs\r\nContent-Length: nonsense\r\n\r\n{}",
		"POST /v1/clear HTTP/1.1\r\nHost: ulvs\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
		"GET /" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n\r\n",
	} {
		c, err := net.Dial("unix", path)
		must(t, err)
		_, _ = io.WriteString(c, say) // it may hang up on us
		must(t, c.Close())
		alive(t, client)
	}
}

// A socket on which something else answers.
func TestAnotherDaemon(t *testing.T) {
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		says string
	}{
		{"without our paths", http.NotFound, "another version"},
		{"with errors of its own", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"message":"no"}`, 500) }, "500 Internal Server Error"},
		{"with pages", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "invalid character"},
		{"of a later version", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(409)
			_, _ = io.WriteString(w, `{"error":"the moon is full","kind":"moon"}`)
		}, "the moon is full"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sock")
			s := httptest.NewUnstartedServer(c.h)
			s.Listener.Close()
			s.Listener = listen(t, path)
			s.Start()
			defer s.Close()
			client := control.Dial(path)
			_, listErr := client.Services()
			_, _, versionErr := client.Version()
			_, connErr := conns(client)
			for _, err := range []error{listErr, versionErr, connErr} {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v does not say %q", err, c.says)
				}
			}
		})
	}
}
