package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/weirsync/weir/connector/sandbox"
)

// sandbox prints one JSON line per vendor, serves both addresses, and ends with the first signal.
func TestSandbox(t *testing.T) {
	signals := make(chan os.Signal, 1)
	r, w := io.Pipe()
	done := make(chan result, 1)
	go func() {
		defer w.Close()
		done <- invoke(t, "", func(e *Env) {
			e.Stdout = w
			e.Signals = func() (<-chan os.Signal, func()) { return signals, func() {} }
		}, "sandbox", "plain", "pushcash", "finfusion", "--limit-scale", "5")
	}()
	lines := bufio.NewScanner(r)
	for _, vendor := range []string{"plain", "pushcash", "finfusion"} {
		if !lines.Scan() {
			t.Fatalf("no line for %s: %v, %+v", vendor, lines.Err(), <-done)
		}
		var l sandbox.Listener
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Vendor != vendor || !strings.HasPrefix(l.URL, "http://127.0.0.1:") || !strings.HasPrefix(l.AdminURL, "http://127.0.0.1:") || l.LimitScale != 5 {
			t.Errorf("line %s, want %s with two loopback addresses and the scale", lines.Text(), vendor)
		}
		resp, err := http.Get(l.AdminURL + "/effects")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: GET /effects = %d, want 200", vendor, resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	signals <- syscall.SIGTERM
	if res := <-done; res.code != exitDone {
		t.Errorf("code %d, %s; want 0", res.code, res.stderr)
	}
}
