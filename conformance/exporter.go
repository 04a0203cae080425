package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// Exporter is Prometheus's exporter of Debian, which reads IPVS's files under /proc.
const Exporter = "prometheus-node-exporter"

// exported has the exporter, in a host, read what is under a folder as under /proc, and returns its
// series of IPVS, sorted.
func exported(ctx context.Context, host *lab.Host, procfs string) (string, int, error) {
	const port = "127.0.0.1:9100"
	c := host.Command(ctx, Exporter, "--collector.disable-defaults", "--collector.ipvs", "--web.listen-address="+port,
		"--web.disable-exporter-metrics", "--path.procfs="+procfs)
	var log lab.Output
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		return "", 0, err
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			err = host.Do(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, "tcp4", port)
				return err
			})
			return conn, err
		}}}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		text, err := fetch(ctx, &client, "http://"+port+"/metrics")
		if err == nil {
			lines := slices.Collect(strings.Lines(text))
			lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "node_ipvs_") })
			slices.Sort(lines)
			return strings.Join(lines, ""), 0, nil
		}
		if time.Since(began) > ready || ctx.Err() != nil {
			return "", 0, fmt.Errorf("%s: %w: %s", Exporter, err, strings.TrimRight(log.String(), "\n"))
		}
	}
}

func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(answer.Status))
	}
	return string(text), err
}
