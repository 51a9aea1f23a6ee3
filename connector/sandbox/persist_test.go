package sandbox_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
)

func readEntries(t testing.TB, path string) []sandbox.Entry {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []sandbox.Entry
	dec := json.NewDecoder(bytes.NewReader(data))
	for dec.More() {
		var e sandbox.Entry
		if err := dec.Decode(&e); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, e)
	}
	return out
}

// TestEffectsFileIsCompleteBeforeTheAnswer: whatever was answered is in the file at once, without a close, so that a
// kill loses nothing that a client has seen. A new sandbox goes on with its numbers.
func TestEffectsFileIsCompleteBeforeTheAnswer(t *testing.T) {
	path := t.TempDir() + "/effects.ndjson"
	b := start(t, "plain", sandbox.Options{EffectsFile: path})
	for i := range 20 {
		b.want(b.do("POST", "/payments", `{"reference":"r"}`), 201)
		if got := len(readEntries(t, path)); got != i+1 {
			t.Fatalf("after %d answers the file has %d entries", i+1, got)
		}
	}
	again := start(t, "plain", sandbox.Options{EffectsFile: path})
	again.want(again.do("PUT", "/things/a", `{}`), 201)
	es := again.effects(0)
	if len(es) != 21 || es[20].Seq != 21 || es[20].Operation != "put_thing" {
		t.Errorf("after a restart: %d entries, last %+v", len(es), es[len(es)-1])
	}
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := sandbox.New("plain", sandbox.Options{EffectsFile: path}); err == nil {
		s.Close()
		t.Error("a file that is no effects log is accepted")
	}
}

// TestPersistedStateSurvivesKill starts a second sandbox on the files of one that was not closed.
func TestPersistedStateSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	o := sandbox.Options{Persist: dir, EffectsFile: dir + "/effects.ndjson"}
	b := start(t, "pushcash", o)
	user := b.want(b.do("POST", "/user", userBody("c-1")), 200).text(t, "id")
	keyless := b.want(b.do("POST", "/intent", intentBody(user, 700)), 200).text(t, "id")
	intent := b.want(b.do("POST", "/intent", intentBody(user, 500), "X-Idempotency-Key", "i-1"), 200).text(t, "id")
	b.want(b.admin("POST", "/actions/complete_intent", `{"intent_id":"`+intent+`"}`), 200)
	refund := b.want(b.do("POST", "/refund", `{"intent_id":"`+intent+`","amount":100}`), 200).text(t, "id")
	b.want(b.do("POST", "/simulate/settlement", `{"intent_id":"`+intent+`"}`), 200)
	dispute := b.want(b.do("POST", "/simulate/dispute", `{"intent_id":"`+intent+`","code":"4837"}`), 200).text(t, "id")
	b.want(b.do("POST", "/simulate/dispute/resolve", `{"dispute_id":"`+dispute+`","result":"lost"}`), 200)
	token := b.want(b.do("POST", "/token", `{"user_id":"`+user+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 200).text(t, "token")
	pay := `{"token":"` + token + `","direction":"cash_in","amount":900,"currency":"USD","tag":"a-1"}`
	paid := b.want(b.do("POST", "/authorize", pay), 200).text(t, "id")
	before := map[string]string{}
	for _, id := range []string{user, keyless, intent, refund, dispute, paid} {
		before[id] = b.want(b.admin("GET", "/objects/"+id, ""), 200).body
	}
	log := b.effects(0)

	// A kill may tear the last line of the state and leave the effects file behind it.
	f, err := os.OpenFile(dir+"/pushcash.state.ndjson", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"effect":{"seq":99`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Truncate(o.EffectsFile, 30); err != nil {
		t.Fatal(err)
	}

	b2 := start(t, "pushcash", o)
	if got := b2.effects(0); fmt.Sprint(got) != fmt.Sprint(log) {
		t.Errorf("log after the restart:\n%v\nwant\n%v", got, log)
	}
	if got := readEntries(t, o.EffectsFile); fmt.Sprint(got) != fmt.Sprint(log) {
		t.Errorf("the effects file was not completed: %d entries, want %d", len(got), len(log))
	}
	for id, want := range before {
		if got := b2.want(b2.admin("GET", "/objects/"+id, ""), 200).body; got != want {
			t.Errorf("object after the restart:\n%swant\n%s", got, want)
		}
	}
	// Idempotency survives: nothing of this creates anything.
	for _, c := range []struct{ path, body, key, id string }{
		{"/user", userBody("c-1"), "", user}, {"/intent", intentBody(user, 500), "i-1", intent}, {"/intent", intentBody(user, 700), "", keyless},
		{"/refund", `{"intent_id":"` + intent + `","amount":100}`, "", refund}, {"/authorize", pay, "", paid},
	} {
		var headers []string
		if c.key != "" {
			headers = []string{"X-Idempotency-Key", c.key}
		}
		if got := b2.want(b2.do("POST", c.path, c.body, headers...), 200).text(t, "id"); got != c.id {
			t.Errorf("repeat of %s after the restart made %s, want %s", c.path, got, c.id)
		}
	}
	if got := b2.counter("idempotency_body_mismatch"); got != 0 {
		t.Errorf("idempotency_body_mismatch = %d, want 0", got)
	}
	other := b2.want(b2.do("POST", "/user", userBody("c-2")), 200).text(t, "id")
	if _, taken := before[other]; taken {
		t.Errorf("id %s was given out twice", other)
	}
}

func TestPersistedPlain(t *testing.T) {
	o := sandbox.Options{Persist: t.TempDir()}
	b := start(t, "plain", o)
	b.want(b.do("PUT", "/things/a", ` {"n": "<1>"} `), 201)
	b.want(b.do("PUT", "/things/a", `{"n":2}`), 200)
	id := b.want(b.do("POST", "/payments", `{"reference":"r"}`), 201).text(t, "id")
	b2 := start(t, "plain", o)
	b2.want(b2.do("PUT", "/things/a", `{"n":2}`), 200)
	b2.wantLast("put_thing replayed 200")
	b2.want(b2.do("PUT", "/things/a", ` {"n": "<1>"} `), 200)
	b2.wantLast("put_thing applied 200")
	b2.want(b2.do("GET", "/payments/"+id, ""), 200)
}

func TestRestartAfterResetIsEmpty(t *testing.T) {
	o := sandbox.Options{Persist: t.TempDir()}
	b := start(t, "plain", o)
	b.want(b.do("PUT", "/things/a", `{}`), 201)
	b.want(b.admin("POST", "/reset", ""), 200)
	b.clock.add(time.Second)
	b2 := start(t, "plain", o)
	b2.want(b2.do("GET", "/things/a", ""), 404)
	if es := b2.effects(0); len(es) != 1 || es[0].Seq != 1 {
		t.Errorf("log: %+v", es)
	}
}
