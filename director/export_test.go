package director

import "time"

// JournalSize is for tests of a journal that is full.
var JournalSize = &journalSize

// AwaitAnnounced waits until so many services are about to be added.
func AwaitAnnounced(d *Director, n int) {
	for {
		d.ctl.Lock()
		now := len(d.announced.services)
		d.ctl.Unlock()
		if now >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Update is set to write golden files anew.
var Update = update
