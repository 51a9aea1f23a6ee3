package sqlite

import (
	"database/sql/driver"
	"errors"
	"sync/atomic"
)

// checkpointer copies the write-ahead log into the database on a goroutine and a connection of its own, so that no
// caller waits for it: a copy of 32 MiB syncs the whole database file, which may take a second on a busy disk.
//
// The log starts again from its beginning only when all of it is copied, which never happens behind the back of a
// writer that keeps writing. So when the log has passed pagesMax after a copy, the writer itself copies the small
// rest before its next transaction.
type checkpointer struct {
	c        *conn
	pagesMax int64
	wake     chan struct{} // size 1: one wake-up that is not taken yet stands for all
	done     chan struct{}
	rest     atomic.Bool // the log is long: the writer is to copy the rest
}

func newCheckpointer(c *conn, pagesMax int64) *checkpointer {
	k := &checkpointer{c: c, pagesMax: pagesMax, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go k.run()
	return k
}

// nudge asks for a copy.
func (k *checkpointer) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *checkpointer) run() {
	defer close(k.done)
	for range k.wake {
		// An error is not lost: the writer, which copies the rest, meets it too, and so does the next transaction.
		if pages, err := copyLog(k.c); err != nil || pages > k.pagesMax {
			k.rest.Store(true)
		}
	}
}

// close ends the goroutine; nobody may nudge after it.
func (k *checkpointer) close() error {
	close(k.wake)
	<-k.done
	return k.c.Close()
}

// copyLog copies what it can without waiting for anybody and answers the pages in the log.
func copyLog(c *conn) (pages int64, err error) {
	var row [3]driver.Value // busy, pages in the log, pages copied
	found, err := c.one("PRAGMA wal_checkpoint(PASSIVE)", row[:])
	if err == nil && !found {
		err = errors.New("wal_checkpoint answers nothing")
	}
	return asInt(row[1]), err
}
