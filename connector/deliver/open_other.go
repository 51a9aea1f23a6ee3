//go:build !unix

package deliver

// stillOpen cannot look without waiting here: a connection that was idle is not used again.
func (c *directConn) stillOpen() bool { return false }
