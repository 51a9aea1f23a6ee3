package integration_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// fewKeys is more than the failures that open a breaker (10), so that an outage is seen as one.
const fewKeys = 20

// A credential that the vendor refuses halts the connector: nothing is parked, and it goes on by itself when the
// file with the secret changes (design section 6, Halt).
func TestHaltOnCredential(t *testing.T) {
	t.Parallel()
	const next = "push_sandbox_11111111111111111111111111111111"
	b := newBox(t, boxOptions{vendor: "pushcash", scale: true, sandbox: []string{"--key", boxKey, "--key", next}})
	b.write(b.secret, "push_sandbox_of_somebody_else")
	weir := b.start()
	b.publish(customers("a", fewKeys, 1)...)
	s := b.waitStatus("halted", inState("halted"))
	if s.Reason == "" {
		t.Error("halted without a reason")
	}
	refused := func(when string) {
		t.Helper()
		if n := len(b.parked()); n != 0 {
			t.Errorf("%s: %d records are parked, want none", when, n)
		}
	}
	refused("while halted")
	if n := len(b.sandbox.Applied(t)); n != 0 {
		t.Fatalf("%d effects with a wrong key", n)
	}
	b.write(b.secret, boxKey)
	began := time.Now()
	b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(b.sandbox.Applied(t)) == fewKeys })
	t.Logf("healed after %v", time.Since(began).Round(time.Millisecond))
	b.waitStatus("running", inState("running"))

	// In the middle of work: the key is revoked, and a new one comes.
	b.sandbox.SetFault(t, "unauthorized", true, nil)
	b.publish(customers("b", fewKeys, 1)...)
	b.waitStatus("halted again", inState("halted"))
	refused("while halted again")
	b.sandbox.SetFault(t, "unauthorized", false, nil)
	b.write(b.secret, next)
	b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(b.sandbox.Applied(t)) == 2*fewKeys })
	b.waitLag0()
	refused("at the end")
	b.stop(weir)
	if rep := b.clean(); rep.Delivered != 2*fewKeys {
		t.Errorf("%d delivered, want %d", rep.Delivered, 2*fewKeys)
	}
}

// A vendor that has no call to check a credential with: two keys that are refused without a success in between halt
// the connector, also if they come one by one, and one request at a time asks whether it may go on.
func TestHaltWithoutACredentialCheck(t *testing.T) {
	t.Parallel()
	const next = "another-key"
	b := newBox(t, boxOptions{sandbox: []string{"--key", boxKey, "--key", next}})
	b.write(b.secret, "revoked")
	weir := b.start()
	b.publish(append(customers("b", fewKeys, 1), invoices("b-inv", fewKeys)...)...)
	b.waitStatus("halted", inState("halted"))
	refused := func() (n int) {
		for _, e := range b.sandbox.Effects(t) {
			if e.Status == 401 {
				n++
			}
		}
		return n
	}
	before := refused()
	until := time.Now().Add(4 * time.Second)
	for time.Now().Before(until) { // what must not happen has no signal
		if s, err := b.status(); err != nil || s.State != "halted" || s.Parked == nil || *s.Parked != 0 {
			t.Fatalf("with a refused credential: %+v, %v", s, err)
		}
		time.Sleep(boxPoll)
	}
	if n := refused() - before; n > 3 {
		t.Errorf("%d more requests with a refused credential within 4 s, want one now and then", n)
	}
	b.write(b.secret, next)
	b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(b.sandbox.Applied(t)) == 2*fewKeys })
	b.waitLag0()
	b.waitStatus("running", inState("running"))
	b.stop(weir)
	if rep := b.clean(); rep.Delivered != 2*fewKeys || rep.Parked != 0 {
		t.Errorf("%d delivered and %d parked, want %d and 0", rep.Delivered, rep.Parked, 2*fewKeys)
	}
}

// One running weir owns a store; a second one says so and what to do, and the first goes on.
func TestSecondRunOnOneStore(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	weir := b.start()
	b.publish(customers("a", 3, 1)...)
	b.waitLag0()
	r := b.weir.Run(t, "run", "--config", b.config)
	if r.Code != 3 {
		t.Errorf("exit code %d, want 3\n%s", r.Code, r.Stderr)
	}
	for _, want := range []string{b.store, "stop it"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("stderr does not say %q:\n%s", want, r.Stderr)
		}
	}
	b.publish(customers("b", 3, 1)...)
	b.waitLag0()
	b.stop(weir)
	b.clean()
}

// SIGTERM lets what is in flight end, so that nothing of it is in doubt, and the next start takes up the rest.
func TestDrain(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	const each = 400
	b.sandbox.SetFault(t, "slow", true, map[string]any{"delay_ms": 400})
	weir := b.start()
	b.publish(append(customers("a", each, 1), invoices("inv", each)...)...)
	b.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return len(es) > 0 })
	weir.Signal(t, syscall.SIGTERM)
	if r := weir.Wait(t, boxDrain); r.Code != 0 {
		t.Fatalf("exit code %d, want 0\n%s", r.Code, tail(r.Stderr))
	}
	drained := len(b.sandbox.Effects(t))
	if drained == 2*each {
		t.Fatal("everything was done before the drain: the test shows nothing")
	}
	h := b.history()
	h.Complete = false
	if rep := verifyClean(t, h); rep.Delivered != drained || rep.Effects.Unresolved != 0 {
		t.Errorf("after the drain: %d requests, but %d delivered and %d without an outcome", drained, rep.Delivered, rep.Effects.Unresolved)
	}
	b.sandbox.SetFault(t, "slow", false, nil)
	weir = b.start()
	b.waitLag0()
	b.stop(weir)
	if n := len(b.sandbox.Effects(t)); n != 2*each {
		t.Errorf("%d requests, want %d: none may be repeated after a drain", n, 2*each)
	}
	if rep := b.clean(); rep.Delivered != 2*each || rep.Parked != 0 {
		t.Errorf("%d delivered and %d parked, want %d and 0", rep.Delivered, rep.Parked, 2*each)
	}
	t.Logf("%d of %d were done at the drain", drained, 2*each)
}

// A vendor whose connections break: the state is outage, nothing is parked, since the operations can be repeated, and
// it goes on by itself (promise 7).
func TestOutageOfConnections(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{vendor: "pushcash", scale: true})
	weir := b.start()
	b.publish(customers("a", fewKeys, 1)...)
	b.waitLag0()
	b.sandbox.SetFault(t, "outage", true, nil)
	var es []event
	for i := range fewKeys {
		es = append(es, customer(fmt.Sprintf("b-%d", i), 1), invoice(fmt.Sprintf("inv-%d", i), fmt.Sprintf("a-%d", i), 1, 5))
	}
	b.publish(es...)
	b.outage()
	b.sandbox.SetFault(t, "outage", false, nil)
	b.over(weir, 3*fewKeys)
}

// A vendor whose server is gone: nothing was sent, so also payments that cannot be repeated wait and are not parked.
func TestOutageOfTheServer(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "effects.jsonl")
	b := newBox(t, boxOptions{sandbox: []string{"--effects-file", log}})
	weir := b.start()
	b.publish(append(customers("a", fewKeys, 1), invoices("a-inv", fewKeys)...)...)
	b.waitLag0()
	b.sandbox.Process.Kill(t)
	b.publish(append(customers("b", fewKeys, 1), invoices("b-inv", fewKeys)...)...)
	b.outage()
	u, err := url.Parse(b.sandbox.URL)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp", u.Host, time.Second); err == nil {
		c.Close()
		t.Fatal("the vendor is still there")
	}
	b.sandbox = harness.StartSandbox(t, b.weir, b.vendor, "--effects-file", log, "--listen", u.Host)
	b.over(weir, 4*fewKeys)
	if _, err := os.Stat(log); err != nil {
		t.Error(err)
	}
}

// outage waits for the state and for some seconds of it, in which nothing may be parked.
func (b *box) outage() {
	b.t.Helper()
	s := b.waitStatus("outage", inState("outage"))
	if !strings.Contains(s.Reason, "vendor") {
		b.t.Errorf("reason %q, want it to name the vendor", s.Reason)
	}
	until := time.Now().Add(3 * time.Second)
	for time.Now().Before(until) { // what must not happen has no signal
		s, err := b.status()
		if err != nil || s.State != "outage" || s.Parked == nil || *s.Parked != 0 {
			b.t.Fatalf("in the outage: %+v, %v", s, err)
		}
		time.Sleep(boxPoll)
	}
}

// over waits until everything is delivered after an outage.
func (b *box) over(weir *harness.Process, delivered int) {
	b.t.Helper()
	began := time.Now()
	b.waitLag0()
	b.t.Logf("lag 0 %v after the vendor came back", time.Since(began).Round(time.Millisecond))
	b.waitStatus("running", inState("running"))
	b.stop(weir)
	rep := b.clean()
	if rep.Delivered != delivered || rep.Parked != 0 {
		b.t.Errorf("%d delivered and %d parked, want %d and 0", rep.Delivered, rep.Parked, delivered)
	}
}
