package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// Cmd is a program that runs in a host. It is an exec.Cmd, to be set up as
// such; but start it with the methods here. It is killed when its context
// ends, when the lab is closed, and when this process ends.
type Cmd struct {
	*exec.Cmd
	host *Host
}

// Command makes a command that will run in the host. Its mount namespace is
// the host's too: a copy of this process's, where /etc/resolv.conf is empty,
// because a lab has no DNS.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), host: h}
	// A grandchild that holds the output open must not keep Wait for ever.
	c.WaitDelay = time.Second
	return c
}

// Start starts the program and does not wait for it.
func (c *Cmd) Start() error {
	c.SysProcAttr = dieWithParent(c.SysProcAttr)
	if err := c.host.ns.start(c.Cmd.Start); err != nil {
		return fmt.Errorf("host %s: %w", c.host.name, err)
	}
	c.host.remember(c.Process)
	return nil
}

// Wait waits for the end of a program that was started.
func (c *Cmd) Wait() error {
	err := c.Cmd.Wait()
	c.host.forget(c.Process)
	return err
}

// Run starts the program and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns what it wrote to its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the program and returns what it wrote, errors included.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

func (h *Host) remember(p *os.Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.children[p] = struct{}{}
}

func (h *Host) forget(p *os.Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.children, p)
}
