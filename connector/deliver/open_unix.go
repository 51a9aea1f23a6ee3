//go:build unix

package deliver

import (
	"net"
	"syscall"
)

// stillOpen reports whether nothing has come on an idle connection, the end of it included. It does not wait. What is
// no socket counts as open.
func stillOpen(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:]) // sockets of package net do not block
		open = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && open
}
