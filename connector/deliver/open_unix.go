//go:build unix

package deliver

import "syscall"

// stillOpen reports whether nothing has come on an idle connection, the end of it included. It does not wait. What is
// no socket counts as open.
func stillOpen(raw syscall.RawConn) bool {
	if raw == nil {
		return true
	}
	open := false
	err := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:]) // sockets of package net do not block
		open = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && open
}
