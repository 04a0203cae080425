package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// repository is where README's commands are run, as seen from here.
const repository = "../.."

// readmeWords begin the lines of README that are run. .ci/run runs make demo and make test.
var readmeWords = []string{"ulvs ", "make build", "ip "}

// fenced returns the lines of the fenced blocks of a text.
func fenced(text string) (lines []string) {
	in := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			in = !in
		case in:
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	return lines
}

// readmeCommands returns the lines of a text's fenced blocks that are to be run.
func readmeCommands(text string) (lines []string) {
	for _, line := range fenced(text) {
		if slices.ContainsFunc(readmeWords, func(word string) bool { return strings.HasPrefix(line, word) }) {
			lines = append(lines, line)
		}
	}
	return lines
}

// readmeHost is a host whose eth0 is a director's, and which has a /run, /usr/local/sbin
// and /sys/fs/bpf of its own.
type readmeHost struct {
	*lab.Host
	path    string
	daemons []daemonProcess
}

// daemonProcess is a daemon that has become ready, and how it ends.
type daemonProcess struct {
	*os.Process
	ended <-chan error
}

func newReadmeHost(t *testing.T) *readmeHost {
	t.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h, err := l.Add(lab.HostConfig{Name: "director", Addrs: prefixes("192.168.10.100/24")})
	if err != nil {
		t.Fatal(err)
	}
	r := &readmeHost{Host: h, path: "/usr/local/sbin:" + os.Getenv("PATH")}
	// The mount namespace is the host's own (lab's newNamespace). Where no BPF file
	// system can be mounted, nothing is kept, and the machine's own is hidden.
	if err := r.run(`mount -t tmpfs own /run && mount -t tmpfs own /usr/local/sbin &&
		{ mount -t bpf own /sys/fs/bpf || mount -t tmpfs own /sys/fs/bpf; }`); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *readmeHost) command(ctx context.Context, line string) *lab.Cmd {
	c := r.Command(ctx, "sh", "-c", line)
	c.Dir = repository
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != "PATH" && name != "ULVS_CONTROL" {
			c.Env = append(c.Env, v)
		}
	}
	c.Env = append(c.Env, "PATH="+r.path)
	return c
}

// run has a shell run a line; what the line puts in the background must become ready.
func (r *readmeHost) run(line string) error {
	if daemon, ok := strings.CutSuffix(line, " &"); ok {
		return r.start(daemon)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // for a compiler
	defer cancel()
	if out, err := r.command(ctx, line).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

func (r *readmeHost) start(line string) error {
	c := r.command(context.Background(), "exec "+line)
	log := new(said)
	c.Stderr = log
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	limit := time.After(patience)
	for !strings.Contains(log.String(), "msg=ready") {
		select {
		case err := <-ended:
			return fmt.Errorf("%s: ended with %v: %s", line, err, log)
		case <-limit:
			return fmt.Errorf("%s: does not become ready: %s", line, log)
		case <-time.After(5 * time.Millisecond):
		}
	}
	r.daemons = append(r.daemons, daemonProcess{c.Process, ended})
	return nil
}

// runAll runs the commands of a text, in order, up to the first that fails.
func (r *readmeHost) runAll(text string) error {
	for _, line := range readmeCommands(text) {
		if err := r.run(line); err != nil {
			return err
		}
	}
	return nil
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(repository + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What README tells people to type works as it stands.
func TestReadmeCommands(t *testing.T) {
	text := readme(t)
	commands := readmeCommands(text)
	for _, word := range []string{"make build", "ulvs run ", "ulvs ipvsadm -A ", "ulvs ipvsadm -a "} {
		if !slices.ContainsFunc(commands, func(line string) bool { return strings.HasPrefix(line, word) }) {
			t.Errorf("README has no line that begins with %q: %q", word, commands)
		}
	}
	r := newReadmeHost(t)
	if err := r.runAll(text); err != nil {
		t.Fatal(err)
	}
	if len(r.daemons) != 1 {
		t.Fatalf("%d daemons run, want 1", len(r.daemons))
	}
	// A wrong command among right ones is found.
	for _, wrong := range []string{
		"ulvs ipvsadm -a -t 192.168.10.109:80 -r 192.168.10.200 -g", // no such service
		"ulvs nosuch",
		"ulvs run --interface eth0 &", // one runs
		"ulvs run --interface nosuch0 --control /run/other.sock &",
		"make build-nosuch",
		"ip link show dev nosuch0",
	} {
		planted := "```sh\nulvs status\n" + wrong + "\nulvs status\n```\n"
		if err := r.runAll(planted); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(wrong, " &")) {
			t.Errorf("planted %q: %v", wrong, err)
		}
	}
	_ = r.daemons[0].Signal(unix.SIGTERM)
	if err := <-r.daemons[0].ended; err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
}

// Of what a page shows, the commands are those in blocks of shell or behind a prompt.
func TestReadmeCommandsExtract(t *testing.T) {
	const text = "ulvs prose\n\n```sh\nmake demo    # not this\nmake build && x\nulvs run &\n  ulvs indented\n```\nip prose\n" +
		"```text\ndirector# ulvs run\nulvsx\nip link\n```\n"
	want := []string{"make build && x", "ulvs run &", "ip link"}
	if got := readmeCommands(text); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// links are the local links of a text: a file, and a heading of it.
var links = regexp.MustCompile(`\]\(([^):#]*)(#[^)]*)?\)`)

// anchors returns what a page's headings are linked by.
func anchors(text string) (list []string) {
	for line := range strings.Lines(text) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			name := strings.ToLower(strings.TrimSpace(heading))
			name = regexp.MustCompile(`[^\w -]`).ReplaceAllString(name, "")
			list = append(list, "#"+strings.ReplaceAll(name, " ", "-"))
		}
	}
	return list
}

// brokenLinks returns the links of a page that lead nowhere.
func brokenLinks(path, text string) (broken []string) {
	for _, m := range links.FindAllStringSubmatch(text, -1) {
		to := path
		if m[1] != "" {
			to = filepath.Join(filepath.Dir(path), m[1])
		}
		page, err := os.ReadFile(to)
		info, statErr := os.Stat(to)
		switch {
		case statErr != nil:
			broken = append(broken, m[0])
		case m[2] != "" && (info.IsDir() || err != nil || !slices.Contains(anchors(string(page)), m[2])):
			broken = append(broken, m[0])
		}
	}
	return broken
}

// Links between the pages work.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob(repository + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"docs", "bench"} {
		more, err := filepath.Glob(repository + "/" + dir + "/*.md")
		if err != nil || len(more) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		pages = append(pages, more...)
	}
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range brokenLinks(path, string(text)) {
			t.Errorf("%s: %s leads nowhere", path, link)
		}
	}
	const planted = "[a](README.md) [b](#nosuch) [c](nosuch.md) [d](docs/limits.md#nosuch) [e](docs/limits.md#sizes)"
	if got := brokenLinks(repository+"/README.md", planted); len(got) != 3 {
		t.Errorf("of three planted links that lead nowhere, found %q", got)
	}
}

// What README shows of the demo is what the demo prints, but for how long it took.
func TestReadmeDemo(t *testing.T) {
	_, shown, ok := strings.Cut(readme(t), "```text\n")
	if !ok {
		t.Fatal("README shows nothing of the demo")
	}
	shown, _, _ = strings.Cut(shown, "```")
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	var out bytes.Buffer
	if err := demo(ctx, &out, false); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	took := regexp.MustCompile(`in \d+\.\d s\n`)
	rest := took.ReplaceAllString(out.String(), "in a moment\n")
	for line := range strings.Lines(took.ReplaceAllString(shown, "in a moment\n")) {
		if line == "…\n" {
			continue
		}
		if _, rest, ok = strings.Cut(rest, line); !ok {
			t.Fatalf("the demo does not print %q there:\n%s", line, out.Bytes())
		}
	}
}

// The row of speed is BENCHMARKS.md's, and the picture ARCHITECTURE.md's.
func TestReadmeQuotes(t *testing.T) {
	text := readme(t)
	page := func(name string) string {
		other, err := os.ReadFile(repository + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(other)
	}
	figures := regexp.MustCompile(`\n\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|\n`).FindStringSubmatch(text)
	if figures == nil {
		t.Fatal("README has no row of speed")
	}
	quoted := slices.ContainsFunc(strings.Split(page("BENCHMARKS.md"), "\n"), func(row string) bool {
		return strings.HasPrefix(row, "| 10,000 |") && !slices.ContainsFunc(figures[1:], func(figure string) bool {
			return !strings.Contains(row, " "+figure+" ")
		})
	})
	if !quoted {
		t.Errorf("README says %v instructions; BENCHMARKS.md has no such row of 10,000 connections", figures[1:])
	}
	_, picture, _ := strings.Cut(text, "## The way of a packet\n\n```text\n")
	picture, _, _ = strings.Cut(picture, "```")
	if picture == "" || !strings.Contains(page("ARCHITECTURE.md"), picture) {
		t.Errorf("ARCHITECTURE.md has another picture than README:\n%s", picture)
	}
}
