package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/ulvs/ulvs"
)

// Batch implements ulvs.Control.
func (c *Client) Batch(changes []ulvs.Change, answer func(n int, err error) bool) error {
	if len(changes) == 0 {
		return nil
	}
	return c.do(http.MethodPost, "batch", changes, func(r io.Reader) error {
		d := json.NewDecoder(r)
		for n := range changes {
			var e struct {
				changedReply
				errorReply
			}
			if err := d.Decode(&e); err != nil {
				return fmt.Errorf("%w answers on %s any more: it did for %d commands of %d (%v)", ulvs.ErrUnreachable, c.path, n, len(changes), err)
			}
			var err error
			if e.errorReply != (errorReply{}) {
				err = e.toError()
			}
			c.warn(e.changedReply)
			if !answer(n, err) {
				return nil
			}
		}
		return nil
	})
}
