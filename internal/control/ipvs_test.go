package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// bridgedBed has files of /proc: one that is cut off behind its first half, and one that is long.
type bridgedBed struct {
	broken
	wrote string
}

const longFile = 3 << 20

func (b *bridgedBed) IPVS(request json.RawMessage) (any, error) { return request, nil }
func (b *bridgedBed) WriteProc(name, text string) error {
	if name == "sys/refused" {
		return fmt.Errorf("%w: %q", ulvs.ErrInvalid, text)
	}
	b.wrote = name + ": " + text
	return nil
}

func (b *bridgedBed) ReadProc(w io.Writer, name string) error {
	switch name {
	case "net/cut":
		_, _ = io.WriteString(w, "the first half\n")
		return errors.New("the second half is gone")
	case "net/long":
		_, err := io.WriteString(w, strings.Repeat("x", longFile))
		return err
	}
	return fmt.Errorf("%w: no %s", ulvs.ErrUnsupported, name)
}

// What a bridge asks comes through, and what goes wrong is an error: a file that is cut off too.
func TestBridge(t *testing.T) {
	b := &bridgedBed{}
	client, _, _ := serve(t, b)
	c := control.Bridge{Client: client}
	var text strings.Builder
	if err := c.ReadProc(&text, "net/long"); err != nil || text.Len() != longFile {
		t.Errorf("%d bytes, %v", text.Len(), err)
	}
	if err := c.ReadProc(&text, "net/cut"); err == nil {
		t.Error("a file that is cut off is whole")
	}
	if err := c.ReadProc(&text, "net/none"); !errors.Is(err, ulvs.ErrUnsupported) {
		t.Error(err)
	}
	if err := c.WriteProc("sys/x", "1\n"); err != nil || b.wrote != "sys/x: 1\n" {
		t.Errorf("%q, %v", b.wrote, err)
	}
	if err := c.WriteProc("sys/refused", "1"); !errors.Is(err, ulvs.ErrInvalid) {
		t.Error(err)
	}
	var answer map[string]int
	if err := c.IPVS(map[string]int{"x": 7}, &answer); err != nil || answer["x"] != 7 {
		t.Errorf("%v, %v", answer, err)
	}
}
