package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/config"
)

// A keyed vendor takes requests with one key and refuses all others.
type keyedVendor struct {
	mu    sync.Mutex
	key   string
	taken int
	more  chan struct{} // size 1: a hint that taken has grown
}

func (v *keyedVendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+v.key {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	v.taken++
	select {
	case v.more <- struct{}{}:
	default:
	}
	_, _ = w.Write([]byte("{}"))
}

func (v *keyedVendor) wait(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		v.mu.Lock()
		taken := v.taken
		v.mu.Unlock()
		switch {
		case taken == n:
			return
		case taken > n:
			t.Fatalf("the vendor took %d requests, want %d", taken, n)
		}
		select {
		case <-v.more:
		case <-timeout:
			t.Fatalf("the vendor took %d requests, want %d", taken, n)
		}
	}
}

// A secret's file, the config file and SIGHUP change a running weir; a fault or another key does not.
func TestReload(t *testing.T) {
	w := newWorld(t)
	vendor := &keyedVendor{key: "new-key", more: make(chan struct{}, 1)}
	server := httptest.NewServer(vendor)
	t.Cleanup(server.Close)
	text, err := os.ReadFile("../../connector/profile/plain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	limited := strings.Replace(string(text), "\noperations:\n", "\nlimits:\n  all: {kind: sliding_window, n: 100, window: 1h}\n\noperations:\n", 1)
	limited = strings.Replace(limited, "  put_customer:\n", "  put_customer:\n    limits: [all]\n", 1)
	write(t, filepath.Join(w.dir, "limited.yaml"), limited)
	file := filepath.Join(w.dir, "weir.yaml")
	configure := func(ops, more string) {
		write(t, file, fmt.Sprintf("kafka: {brokers: [%q]}\nops: %s\nconnectors:\n  plain:\n    profile: ./limited.yaml\n    base_url: %s\n"+
			"    secrets: {api_key: \"${file:key}\"}\n%s", w.kafka.ListenAddrs()[0], ops, server.URL, more))
	}
	configure("{listen: 127.0.0.1:0}", "")
	write(t, filepath.Join(w.dir, "key"), "old-key\n")
	publish := func(from, to int) {
		t.Helper()
		var lines strings.Builder
		for i := from; i <= to; i++ {
			lines.WriteString(customer(i, i, 1) + "\n")
		}
		in := func(e *Env) { e.Stdin = strings.NewReader(lines.String()) }
		if r := invoke(t, w.dir, in, "publish", "-", "--create-topics", "--partitions", "2"); r.code != exitDone {
			t.Fatalf("publish: %s", r.stderr)
		}
	}
	publish(1, 3)
	for _, topic := range []string{"canonical.contract", "canonical.invoice"} {
		if err := createTopic(w, topic); err != nil {
			t.Fatal(err)
		}
	}

	signals, hups := make(chan os.Signal, 2), make(chan os.Signal, 1)
	pipeR, pipeW := io.Pipe()
	done := make(chan result, 1)
	go func() {
		defer pipeW.Close()
		done <- invoke(t, w.dir, func(e *Env) {
			e.Stderr = pipeW
			e.Signals = func() (<-chan os.Signal, func()) { return signals, func() {} }
			e.Reload = func() (<-chan os.Signal, func()) { return hups, func() {} }
		}, "run")
	}()
	logs := newLogs(pipeR)
	base := logs.wait(t, "ops listener", "url")
	defer func() {
		if t.Failed() {
			t.Log(logs.all())
		}
	}()

	logs.wait(t, "halted: the vendor does not take the credential; sending waits and goes on by itself when it works again", "reason")
	vendor.wait(t, 0)
	write(t, filepath.Join(w.dir, "key"), "new-key\n")
	logs.wait(t, "credential works again; sending goes on", "after")
	vendor.wait(t, 3)

	// All that was counted stays counted: nothing gets through a limit of less.
	configure("{listen: 127.0.0.1:0}", "    limits: {all: {n: 3}}\n    delivery: {max_in_flight: 7}\n")
	if got, want := logs.wait(t, "config taken up", "changed"), "[connectors.plain.limits.all connectors.plain.delivery.max_in_flight]"; got != want {
		t.Errorf("changed keys %s, want %s", got, want)
	}
	publish(4, 6)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the status has no signal
		if _, body := getWith(t, base+"/api/v1/status", ""); strings.Contains(body, "quota of operation put_customer is used up") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the smaller limit holds nothing up: %s", body)
		}
	}
	vendor.wait(t, 3)

	configure("{listen: 127.0.0.1:0}", "    limits: {all: {n: 400}}\n    delivry: {}\n")
	if got := logs.wait(t, "config not taken up; the config in force stays", "error"); !strings.Contains(got, "weir.yaml:9:5: connectors.plain.delivry: unknown key (did you mean delivery?)") {
		t.Errorf("refused because of %q, want the unknown key, its place and what was meant", got)
	}
	configure("{listen: 127.0.0.1:0}", "    limits: {al: {n: 400}}\n")
	if got := logs.wait(t, "config not taken up; the config in force stays", "error"); !strings.Contains(got, `no limit "al"; did you mean all?`) {
		t.Errorf("refused because of %q, want the unknown limit", got)
	}
	configure("{listen: 127.0.0.1:0}", "    limits: {all: {n: 400}}\n    secrets2: {}\n")
	logs.wait(t, "config not taken up; the config in force stays", "error")
	vendor.wait(t, 3) // none of them has changed anything

	configure("{listen: 127.0.0.1:0, token: \"${file:token}\"}", "    limits: {all: {n: 500}}\n    start: latest\n")
	write(t, filepath.Join(w.dir, "token"), "open-sesame\n")
	hups <- syscall.SIGHUP
	if got := logs.wait(t, "this key needs a restart; what is in force stays", "key"); got != "connectors.plain.start" {
		t.Errorf("needs a restart: %s, want the start", got)
	}
	vendor.wait(t, 6)

	// The token is in force, and the reloads are counted.
	logs.wait(t, "config taken up", "changed")
	if code, _ := getWith(t, base+"/metrics", ""); code != http.StatusUnauthorized {
		t.Errorf("metrics without the new token: %d, want 401", code)
	}
	_, body := getWith(t, base+"/metrics", "open-sesame")
	for _, want := range []string{`weir_quota_used_ratio{connector="plain",limit="all",vendor="plain"} `,
		`weir_vendor_circuit_state{connector="plain",state="closed",vendor="plain"} 1`, `weir_config_reloads_total{outcome="applied"} 2`, `weir_config_reloads_total{outcome="refused"} 3`} {
		if !strings.Contains(body, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	signals <- syscall.SIGTERM
	if r := <-done; r.code != exitDone {
		t.Fatalf("run ended with %d\n%s", r.code, logs.all())
	}
}

func getWith(t *testing.T, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// A listener that others can reach keeps its token until the restart that moves it.
func TestReloadKeepsTheToken(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.dir, "weir.yaml")
	text := "kafka: {brokers: [b:1]}\nops: %s\nconnectors: {plain: {profile: plain}}\n"
	write(t, file, fmt.Sprintf(text, `{listen: "0.0.0.0:8080", token: "${file:key}"}`))
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, fmt.Sprintf(text, `{listen: "127.0.0.1:8080"}`))
	a := &app{Env: processEnv(), configPath: file}
	c, err := a.loadContract(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := newReloader(a, &runPlan{cfg: cfg, contract: c}, 1, nil)
	if _, _, _, _, err := r.next(); err == nil || !strings.Contains(err.Error(), "ops.listen") {
		t.Errorf("a token that goes while the listener stays open: %v, want it refused", err)
	}
}
