package control

import (
	"net/http"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// IPVS has the daemon answer what a program asked of the kernel's IPVS. The error is
// ulvs.ErrUnreachable, or ulvs.ErrNoAnswer.
func (c *Client) IPVS(r ipvsnl.Request) (ipvsnl.Reply, error) {
	return fetch[ipvsnl.Reply](c, http.MethodPost, "ipvs", r)
}
