package control

import (
	"encoding/json"
	"io"
	"net/http"
)

// IPVS has the daemon answer what a program asked of the kernel's IPVS (Bridged). The error is
// ulvs.ErrUnreachable, or ulvs.ErrNoAnswer.
func (c *Client) IPVS(request, answer any) error {
	return c.do(http.MethodPost, "ipvs", request, func(r io.Reader) error { return json.NewDecoder(r).Decode(answer) })
}
