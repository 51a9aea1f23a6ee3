package harness

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
)

func TestPortsAreNotGivenTwice(t *testing.T) {
	seen := make(map[int]bool)
	for range 50 {
		p := Port(t)
		if seen[p] {
			t.Fatalf("port %d was given twice", p)
		}
		if p < portMin || p > portMax {
			t.Errorf("port %d is outside of %d-%d", p, portMin, portMax)
		}
		seen[p] = true
		l, err := net.Listen("tcp", loopback(p))
		if err != nil {
			t.Fatalf("listen on a reserved port: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLockExcludesUntilItIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(path); !errors.Is(err, errLocked) {
		t.Errorf("second lock: %v, want errLocked", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := tryLock(path)
	if err != nil {
		t.Fatalf("lock after it was released: %v", err)
	}
	g.Close()
}
