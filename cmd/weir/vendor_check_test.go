package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/drift"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sandbox"
)

func vendorSandbox(t *testing.T, name string, switches map[string]string) sandbox.Listener {
	t.Helper()
	s, err := sandbox.New(name, sandbox.Options{Switches: switches})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := s.Start(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func setFault(t *testing.T, l sandbox.Listener, body string) {
	t.Helper()
	resp, err := http.Post(l.AdminURL+"/faults", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != 200 {
		t.Fatalf("fault %s: %d", body, resp.StatusCode)
	}
}

// weir vendor check: its exit codes, its JSON, and that no secret stands on a command line.
func TestVendorCheck(t *testing.T) {
	key := func(e *Env) {
		e.Getenv = func(name string) string { return map[string]string{"KEY": "dev_secret"}[name] }
	}
	l := vendorSandbox(t, "finfusion", nil)
	args := []string{"vendor", "check", "finfusion", "--base-url", l.URL, "--secret", "api_key=${env:KEY}"}
	if r := invoke(t, t.TempDir(), key, args...); r.code != exitDone || !strings.HasSuffix(r.stdout, "no drift\n") {
		t.Fatalf("a sandbox as it should be: code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	setFault(t, l, `{"name":"drift","fields":"-"}`)
	if r := invoke(t, t.TempDir(), key, args...); r.code != exitDone || !strings.Contains(r.stdout, "warn    create_payment  amount.drift_field is new (object)\n") || !strings.Contains(r.stdout, ", 0 of them can break") {
		t.Errorf("new fields: code %d, want 0 and warnings: %s%s", r.code, r.stdout, r.stderr)
	}
	setFault(t, l, `{"name":"drift","fields":"-","missing":"created_at"}`)
	r := invoke(t, t.TempDir(), key, append(args, "--json")...)
	var got vendorCheck
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != exitOurs {
		t.Fatalf("a missing field: code %d, %v, %s", r.code, err, r.stderr)
	}
	if want := (drift.Finding{Pair: "create_customer", Kind: drift.Missing, Path: "created_at", Want: "string", Breaking: true}); !slices.Contains(got.Drift, want) || got.Breaking == 0 || got.Profile != "finfusion" || got.Environment != "sandbox" {
		t.Errorf("%+v does not hold %+v", got, want)
	}
	if strings.Contains(r.stdout+r.stderr, "dev_secret") {
		t.Error("the secret is shown")
	}
	setFault(t, l, `{"name":"drift","on":false}`)

	for _, c := range []struct {
		what string
		args []string
		code int
		says string
	}{
		{"a closed port", []string{"finfusion", "--base-url", "http://127.0.0.1:1", "--secret", "api_key=${env:KEY}"}, exitEnv, "does the vendor answer"},
		{"no secret", []string{"finfusion", "--base-url", l.URL}, exitEnv, "credential"},
		{"a secret itself", []string{"finfusion", "--secret", "api_key=dev_secret"}, exitYours, "never stands on a command line"},
		{"both secrets", []string{"finfusion", "--secret", "api_key=${env:KEY}", "--connector", "x"}, exitYours, "leave out"},
		{"no such environment", []string{"finfusion", "--environment", "stage"}, exitYours, "no environment"},
		{"record in production", []string{"pushcash", "--environment", "production", "--record", t.TempDir()}, exitYours, "this is production"},
		{"record at the host of production", []string{"pushcash", "--base-url", "https://API.pushcash.com/", "--record", t.TempDir()}, exitYours, "this is production"},
	} {
		if r := invoke(t, t.TempDir(), key, append([]string{"vendor", "check"}, c.args...)...); r.code != c.code || !strings.Contains(r.stderr, c.says) || strings.Contains(r.stderr, "dev_secret") {
			t.Errorf("%s: code %d, want %d and %q: %s", c.what, r.code, c.code, c.says, r.stderr)
		}
	}
}

// In production nothing is written unless that is allowed, and then no payment.
func TestVendorCheckInProduction(t *testing.T) {
	l := vendorSandbox(t, "finfusion", map[string]string{"restricted_permissions": "payments,accounts"})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "weir.yaml"), fmt.Sprintf("kafka: {brokers: ['127.0.0.1:1']}\nconnectors:\n  ff:\n    profile: finfusion\n    environment: production\n    start: latest\n    base_url: %s\n    secrets: {api_key: '${file:key}'}\n", l.URL))
	write(t, filepath.Join(dir, "key"), "rest_key\n") // good in both environments
	check := func(more ...string) vendorCheck {
		t.Helper()
		r := invoke(t, dir, nil, append([]string{"vendor", "check", "finfusion", "--connector", "ff", "--json"}, more...)...)
		var got vendorCheck
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != exitDone {
			t.Fatalf("check %v: code %d, %v: %s%s", more, r.code, err, r.stdout, r.stderr)
		}
		return got
	}
	made := func(c vendorCheck) (names []string) {
		for _, p := range c.Pairs {
			if p.Status != 0 {
				names = append(names, p.Pair)
			}
		}
		return names
	}
	if got := made(check()); !slices.Equal(got, []string{"verify_api_key", "find_customers", "find_payments"}) {
		t.Errorf("in production %v are made, want reads alone", got)
	}
	if got := made(check("--allow-writes")); !slices.Contains(got, "create_customer") || !slices.Contains(got, "delete_customer") || slices.Contains(got, "create_payment") {
		t.Errorf("with --allow-writes %v are made, want customers and no payment", got)
	}
}

// A user's own profile has its contract beside it: requests that were written, answers that are recorded.
func TestVendorCheckRecord(t *testing.T) {
	l := vendorSandbox(t, "plain", nil)
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.FromSlash("../../connector/profile/plain.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "my.yaml")
	write(t, file, string(text))
	args := []string{"vendor", "check", file, "--base-url", l.URL}
	if r := invoke(t, dir, nil, args...); r.code != exitYours || !strings.Contains(r.stderr, "my.contract") || !strings.Contains(r.stderr, "--record") {
		t.Fatalf("no contract: code %d, want 2 and how to make one: %s", r.code, r.stderr)
	}
	contract := filepath.Join(dir, "my.contract")
	if err := os.Mkdir(contract, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(contract, "put_customer.json"), `{"order": 1, "writes": true, "request": {"method": "PUT", "path": "/things/{reference}", "body": {"reference": "{reference}"}}}`)
	if r := invoke(t, dir, nil, append(args, "--record", contract)...); r.code != exitDone {
		t.Fatalf("record: code %d, %s", r.code, r.stderr)
	}
	if r := invoke(t, dir, nil, args...); r.code != exitDone || !strings.HasSuffix(r.stdout, "no drift\n") {
		t.Errorf("after it was recorded: code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	// The key contract names another folder.
	if err := os.Rename(contract, filepath.Join(dir, "pairs")); err != nil {
		t.Fatal(err)
	}
	write(t, file, "contract: pairs\n"+string(text))
	setFault(t, l, `{"name":"drift","fields":"-","retyped":"version"}`)
	if r := invoke(t, dir, nil, args...); r.code != exitOurs || !strings.Contains(r.stdout, "BREAKS  put_customer  version is string now, was integer") {
		t.Errorf("a retyped field: code %d, %s%s", r.code, r.stdout, r.stderr)
	}
}

// A scheduled check tells each change once, and keeps the gauge.
func TestContractWatch(t *testing.T) {
	l := vendorSandbox(t, "plain", nil)
	w := newWorld(t)
	w.config(t, "    contract_check: {every: 1m}\n")
	cfg, err := config.Load(filepath.Join(w.dir, "weir.yaml"), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	contract, err := (&app{Env: &Env{}}).loadContract(nil)
	if err != nil {
		t.Fatal(err)
	}
	k := cfg.Connectors["plain"]
	k.BaseURL = l.URL
	compiled, err := contract.compile("plain", k, 1)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := newContractWatch(k, compiled)
	if err != nil || watch == nil || watch.every != time.Minute || watch.checker.Writes != drift.AllWrites {
		t.Fatalf("watch %+v, %v", watch, err)
	}
	// A connection ends with the ctx of its requests, so each part has a sender of its own.
	dial := func() *deliver.Sender {
		s := deliver.NewSender(deliver.SenderConfig{BaseURL: l.URL, Connections: 1, Credential: deliver.NewCredential(compiled, secretOf(k))})
		t.Cleanup(s.Close)
		return s
	}
	var log bytes.Buffer
	counts := map[string]int{}
	checks := make(chan struct{}, 100)
	watch.log = slog.New(slog.NewTextHandler(&log, nil))
	watch.drifted = func(kind string, n int) {
		if counts[kind] = n; kind == string(drift.Deprecated) { // the last one
			checks <- struct{}{}
		}
	}
	watch.every = time.Millisecond
	// lines lets the watch make n checks and gives what it has logged.
	lines := func(n int) string {
		log.Reset()
		watch.sender = dial()
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); watch.watch(ctx) }()
		for range n {
			<-checks
		}
		stop()
		<-ended
		for len(checks) > 0 {
			<-checks
		}
		return log.String()
	}
	if got := lines(2); got != "" || len(counts) != len(drift.Kinds) || counts[string(drift.NewField)] != 0 {
		t.Errorf("no drift: log %q, counts %v", got, counts)
	}
	setFault(t, l, `{"name":"drift","fields":"-","operation":"get_payment"}`)
	got := lines(3)
	if strings.Count(got, "\n") != 2 || strings.Count(got, "pair=get_payment kind=new_field") != 2 || counts[string(drift.NewField)] != 2 {
		t.Errorf("two new fields in three checks: counts %v, log\n%s", counts, got)
	}
	setFault(t, l, `{"name":"drift","on":false}`)
	if got := lines(2); strings.Count(got, "again as recorded") != 2 || counts[string(drift.NewField)] != 0 {
		t.Errorf("the drift has gone: counts %v, log\n%s", counts, got)
	}
	// The vendor goes away: said once, and the gauge stands.
	setFault(t, l, `{"name":"unauthorized"}`)
	log.Reset()
	watch.checker.Sender = dial()
	for range 3 {
		watch.check(context.Background())
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "could not be checked") {
		t.Errorf("three checks of a vendor that refuses: log\n%s", got)
	}
	k.Environment = "production"
	compiled.Environment = "production"
	if watch, err = newContractWatch(k, compiled); err != nil || watch.checker.Writes != drift.NoWrites {
		t.Errorf("in production: %v, writes %v, want none", err, watch.checker.Writes)
	}
}

// A connector whose contract is to be checked and that has none is refused at the start.
func TestContractCheckWithoutContract(t *testing.T) {
	p, err := profile.Load("plain")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	write(t, filepath.Join(w.dir, "my.yaml"), string(p.Text()))
	text, err := os.ReadFile(filepath.Join(w.dir, "weir.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(w.dir, "weir.yaml"), strings.Replace(string(text), "profile: plain", "profile: ./my.yaml", 1)+"    contract_check: {every: 24h}\n")
	if r := invoke(t, w.dir, nil, "run"); r.code != exitYours || !strings.Contains(r.stderr, "connectors.plain.contract_check") || !strings.Contains(r.stderr, "no pairs") {
		t.Errorf("run: code %d, want 2 and the key: %s", r.code, r.stderr)
	}
}
