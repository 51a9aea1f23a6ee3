//go:build unix

package deliver

import "syscall"

// stillOpen reports whether nothing has come on an idle connection, the end of it included. It does not wait. What is
// no socket counts as open.
func (c *directConn) stillOpen() bool {
	if c.raw == nil {
		return true
	}
	if c.look == nil {
		c.look = func(fd uintptr) bool {
			var b [1]byte
			_, err := syscall.Read(int(fd), b[:]) // sockets of package net do not block
			c.open = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
			return true
		}
	}
	c.open = false
	return c.raw.Read(c.look) == nil && c.open
}
