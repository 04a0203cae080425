package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// record runs a command a number of times, which is a benchmark of Go's or prints like
// one, and keeps its output with what has to be known about the machine. Nothing is kept
// of one that failed. A machine that is slow for minutes is slow in one run of each
// benchmark then, and not in all runs of some.
func record(name, times string, command []string) error {
	n, err := strconv.Atoi(times)
	if err != nil || n < 1 {
		return fmt.Errorf("%q times: a number from 1 on is needed", times)
	}
	var out bytes.Buffer
	for _, line := range [][2]string{
		{"command", strings.Join(command, " ")},
		{"times", times},
		{"date", time.Now().UTC().Format(time.DateOnly)},
		{"commit", commit()},
		{"kernel", firstLine("/proc/sys/kernel/osrelease")},
		{"cpus", fmt.Sprint(runtime.NumCPU())},
		{"go", runtime.Version()},
	} {
		fmt.Fprintf(&out, "%s: %s\n", line[0], line[1])
	}
	for range n {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w; nothing was kept", strings.Join(command, " "), err)
		}
	}
	if err := os.MkdirAll(resultsDir, 0o755); err != nil {
		return err
	}
	to := filepath.Join(resultsDir, name+".txt")
	if err := os.WriteFile(to, out.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "kept in", to)
	return nil
}

// commit is what the working tree is made from, as well as that can be said. Results
// that were recorded just before do not make it another.
func commit() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	changed, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!"+resultsDir).Output()
	if err != nil || len(changed) > 0 {
		name += "-dirty"
	}
	return name
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
