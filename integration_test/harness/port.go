package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Ports are taken from below the range from which Linux and the BSDs take the local ends of connections
// (32768-60999 and 49152-65535), so that no connection of another process can sit on one between two starts of a
// server, and from above those of well-known services.
const (
	portMin = 20000
	portMax = 29999
)

// Port reserves a free TCP port on 127.0.0.1 until the test ends. No other process that uses this package gets it
// meanwhile, also while nothing listens on it, so a server may be stopped and started again on it.
func Port(t testing.TB) int {
	t.Helper()
	port, release, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// Addr is 127.0.0.1 with a reserved Port.
func Addr(t testing.TB) string {
	t.Helper()
	return loopback(Port(t))
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// reservePort locks a file per port, which the kernel unlocks when this process ends, and then makes sure that
// nobody else listens there.
func reservePort() (port int, release func(), err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("weir-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, fmt.Errorf("reserve a port: %w", err)
	}
	for range 1000 {
		port := portMin + rand.IntN(portMax-portMin+1)
		f, err := tryLock(filepath.Join(dir, strconv.Itoa(port)+".lock"))
		switch {
		case errors.Is(err, errLocked):
			continue
		case err != nil:
			return 0, nil, fmt.Errorf("reserve port %d: %w", port, err)
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil { // somebody else's server
			f.Close()
			continue
		}
		if err := l.Close(); err != nil {
			f.Close()
			return 0, nil, fmt.Errorf("reserve port %d: %w", port, err)
		}
		return port, func() { f.Close() }, nil
	}
	return 0, nil, fmt.Errorf("reserve a port: no free one of 1000 tried in %d-%d", portMin, portMax)
}

var errLocked = errors.New("locked by another process")

// tryLock takes the exclusive lock of a file at once, or errLocked. Closing the file releases it.
func tryLock(path string) (*os.File, error) { return lockFile(path, syscall.LOCK_NB) }

// lock waits for the exclusive lock of a file. Closing the file releases it.
func lock(path string) (*os.File, error) { return lockFile(path, 0) }

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
