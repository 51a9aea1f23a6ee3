package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// The first signal drains, the second ends the process at once with 128 + its number.
func TestTwoSignals(t *testing.T) {
	signals := make(chan os.Signal)
	exits := make(chan int, 1)
	a := &app{Env: &Env{
		Signals: func() (<-chan os.Signal, func()) { return signals, func() {} },
		Exit:    func(code int) { exits <- code },
	}}
	first := make(chan os.Signal, 1)
	ctx, stop := a.interruptible(context.Background(), func(s os.Signal) { first <- s })
	defer stop()
	if ctx.Err() != nil {
		t.Fatal("stopped before any signal")
	}
	signals <- os.Interrupt
	<-ctx.Done()
	if s := <-first; s != os.Interrupt {
		t.Errorf("first was told of %v", s)
	}
	if cause := context.Cause(ctx); cause == nil || cause.Error() != "stopped by interrupt" {
		t.Errorf("cause %v, want stopped by interrupt", cause)
	}
	signals <- syscall.SIGTERM
	if code := <-exits; code != 128+15 {
		t.Errorf("second signal: exit code %d, want 143", code)
	}
}

// One connector that fails does not stop the other, and the exit code is not 0.
func TestRunIsolatesConnectors(t *testing.T) {
	w := newWorld(t)
	w.config(t, "  other: {profile: plain, base_url: "+w.vendor.URL+", secrets: {api_key: \"${file:key}\"}}\n")
	signals := make(chan os.Signal, 1)
	var mu sync.Mutex
	started := map[string]bool{}
	failed := make(chan struct{})
	r := invoke(t, w.dir, func(e *Env) {
		e.Signals = func() (<-chan os.Signal, func()) { return signals, func() {} }
		e.RunConnector = func(ctx context.Context, r connectorRun) error {
			mu.Lock()
			started[r.Name] = true
			mu.Unlock()
			if r.Name == "plain" {
				defer close(failed)
				return errors.New("broken invariant")
			}
			<-failed
			if ctx.Err() != nil {
				t.Error("the other connector was stopped")
			}
			signals <- syscall.SIGTERM
			<-ctx.Done()
			return nil
		}
	}, "run", "--limit-scale", "10")
	if r.code != exitOurs || !started["plain"] || !started["other"] {
		t.Errorf("code %d, started %v; want 1 and both\n%s", r.code, started, r.stderr)
	}
	for _, want := range []string{"broken invariant", "declared quotas are scaled", "config in force"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("the log lacks %q:\n%s", want, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "secret-key") {
		t.Errorf("the log shows the secret:\n%s", r.stderr)
	}
}

func TestRunRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--connector", "nobody"}, "--connector: connector \"nobody\" is not in the config"},
		{[]string{"--store-lost", "nobody"}, "--store-lost: connector"},
		{[]string{"--accept-gap", "canonical.invoice"}, "use TOPIC/PARTITION"},
		{[]string{"--accept-gap", "canonical.invoice/-1"}, "use TOPIC/PARTITION"},
		{[]string{"--limit-scale", "-1"}, "is not above 0"},
	} {
		r := invoke(t, w.dir, nil, append([]string{"run"}, c.args...)...)
		if r.code != exitYours || !strings.Contains(r.stderr, c.want) {
			t.Errorf("run %v: code %d, %s; want 2 and %q", c.args, r.code, r.stderr, c.want)
		}
	}
	w.config(t, "  bad: {profile: plain, environment: moon, secrets: {api_key: \"${file:key}\"}}\n")
	if r := invoke(t, w.dir, nil, "run"); r.code != exitYours || !strings.Contains(r.stderr, "connector bad") {
		t.Errorf("run with an environment that the profile has not: code %d, %s; want 2", r.code, r.stderr)
	}
}

// check tells the two kinds of trouble apart by its exit code, and repeats no secret.
func TestCheckFindings(t *testing.T) {
	w := newWorld(t)
	findings := func(want int) map[string]string {
		t.Helper()
		r := invoke(t, w.dir, nil, "check", "--json")
		if r.code != want {
			t.Errorf("code %d, want %d:\n%s%s", r.code, want, r.stdout, r.stderr)
		}
		if strings.Contains(r.stdout, "secret-key") {
			t.Errorf("check shows a secret:\n%s", r.stdout)
		}
		var list []finding
		if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for _, f := range list {
			m[f.Check] += f.Level + " " + f.What + "; "
		}
		return m
	}
	if m := findings(exitEnv); !strings.Contains(m["connector plain topics"], "fail canonical.customer: it does not exist") || !strings.HasPrefix(m["kafka"], "ok") {
		t.Errorf("without topics: %v", m)
	}
	if err := os.Remove(filepath.Join(w.dir, "key")); err != nil {
		t.Fatal(err)
	}
	if m := findings(exitYours); !strings.HasPrefix(m["secret connectors.plain.secrets.api_key"], "fail") {
		t.Errorf("without the secret's file: %v", m)
	}
	write(t, filepath.Join(w.dir, "weir.yaml"), "kafka: {brokers: [localhost]}\n")
	if m := findings(exitYours); !strings.Contains(m["config"], "kafka.brokers[0]") || !strings.Contains(m["config"], "connectors: missing") {
		t.Errorf("a bad config: %v", m)
	}
}

// Of several fails, what is yours decides the exit code, wherever it stands; warnings do not count.
func TestCheckExitCode(t *testing.T) {
	for _, c := range []struct {
		codes []int
		want  int
	}{{nil, 0}, {[]int{0, 0}, 0}, {[]int{0, 3}, 3}, {[]int{3, 0, 2}, 2}, {[]int{2, 3}, 2}, {[]int{3, 3}, 3}} {
		k := &checker{app: &app{Env: &Env{Stdout: io.Discard}}}
		k.warn("x", "", "a warning")
		for _, code := range c.codes {
			if code == exitDone {
				k.ok("x", "good")
			} else {
				k.fail(code, "x", "", "bad")
			}
		}
		if got := exitCode(k.report()); got != c.want {
			t.Errorf("fails %v: exit code %d, want %d", c.codes, got, c.want)
		}
	}
}

// Only the token lets anyone read status and metrics; health needs none. Without a token only loopback names do.
func TestOpsGuard(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, "open-sesame\n")
	token, _ := config.NewSecret("${file:"+file+"}", "", nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(buildMetric(readBuild()))
	unreadable, _ := config.NewSecret("${env:NONE}", "", func(string) string { return "" })
	server := func(s config.Secret) http.Handler {
		cfg := &config.Config{Ops: config.Ops{Token: s}}
		return (&opsServer{app: &app{Env: &Env{Now: time.Now}}, cfg: cfg, registry: registry, log: slog.New(slog.DiscardHandler)}).handler()
	}
	for _, c := range []struct {
		name               string
		token              config.Secret
		method, path, host string
		auth               string
		want               int
	}{
		{"no token, loopback", config.Secret{}, "GET", "/metrics", "127.0.0.1:8080", "", 200},
		{"no token, localhost", config.Secret{}, "GET", "/metrics", "localhost", "", 200},
		{"no token, IPv6", config.Secret{}, "GET", "/metrics", "[::1]:8080", "", 200},
		{"no token, a name that points here", config.Secret{}, "GET", "/metrics", "evil.example", "", 403},
		{"health under any name", config.Secret{}, "GET", "/healthz", "evil.example", "", 200},
		{"token missing", token, "GET", "/metrics", "127.0.0.1", "", 401},
		{"token wrong", token, "GET", "/metrics", "127.0.0.1", "Bearer open", 401},
		{"token good", token, "GET", "/metrics", "weir.example", "Bearer open-sesame", 200},
		{"health without token", token, "GET", "/healthz", "weir.example", "", 200},
		{"token unreadable", unreadable, "GET", "/metrics", "x", "Bearer ", 503},
		{"writing", config.Secret{}, "POST", "/metrics", "localhost", "", 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := httptest.NewRequest(c.method, c.path, nil)
			req.Host = c.host
			if c.auth != "" {
				req.Header.Set("Authorization", c.auth)
			}
			rec := httptest.NewRecorder()
			server(c.token).ServeHTTP(rec, req)
			if rec.Code != c.want {
				t.Errorf("%s %s of host %s: %d, want %d: %s", c.method, c.path, c.host, rec.Code, c.want, rec.Body)
			}
		})
	}
}

// TestExitCodes holds the one place that maps errors to exit codes (design section 17).
func TestExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"none":                {nil, 0},
		"unknown":             {errors.New("x"), 1},
		"usage":               {usageError("a", "b", ""), 2},
		"config":              {fmt.Errorf("x: %w", &config.Error{}), 2},
		"profile":             {fmt.Errorf("x: %w", profile.Errors{{}}), 2},
		"refused event":       {&schema.RefusedError{}, 2},
		"locked store":        {fmt.Errorf("x: %w", checkpoint.ErrLocked), 3},
		"damaged store":       {fmt.Errorf("connector x: %w", checkpoint.ErrCorrupt), 3},
		"broken store":        {fmt.Errorf("connector x: %w", checkpoint.ErrBroken), 3},
		"full store":          {fmt.Errorf("x: %w", checkpoint.ErrFull), 3},
		"environment":         {environment("x", errors.New("y"), ""), 3},
		"environment, theirs": {environment("x", usageError("y", "z", ""), ""), 2},
		"deadline":            {fmt.Errorf("x: %w", context.DeadlineExceeded), 3},
		"printed already":     {errors.Join(silent{2}), 2},
		"joined":              {errors.Join(errors.New("x"), environment("x", errors.New("y"), "")), 3},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", name, got, c.want)
		}
	}
}
