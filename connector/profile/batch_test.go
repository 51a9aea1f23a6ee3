package profile

import (
	"encoding/json"
	"strings"
	"testing"
)

func batchOf(tb testing.TB) *Batch {
	tb.Helper()
	b := compiled(tb, "finfusion", nil).Operations["create_customer"].Batch
	if b == nil {
		tb.Fatal("FinFusion's customers have a batch form")
	}
	return b
}

// The body of a batch holds the bodies of its items in their order, and its key stands where theirs would.
func TestBatchBuild(t *testing.T) {
	b := batchOf(t)
	r := b.Build([]*Request{{Step: "create", Body: []byte(`{"n":1}`)}, {Step: "create", Body: []byte(`{"n":2}`)}}, "k-1")
	if got, want := string(r.Body), `{"continue_on_error":true,"items":[{"n":1},{"n":2}]}`; got != want {
		t.Errorf("body %s, want %s", got, want)
	}
	if r.Method != "POST" || r.Path != "/v2/customers/batch" || r.Header.Get("Idempotency-Key") != "k-1" || r.IdempotencyKey != "k-1" || r.Step != "create" {
		t.Errorf("request %+v", r)
	}
	if off := compiled(t, "finfusion", map[string]string{"idempotency": "off"}).Operations["create_customer"].Batch.Build([]*Request{{Body: []byte("{}")}}, "k-1"); off.IdempotencyKey != "" || off.Header.Get("Idempotency-Key") != "" {
		t.Errorf("class none sends a key: %+v", off)
	}
}

// Each result reads as the answer to a single request. An answer that does not say of each item, once, what became of it
// is an error: the batch is asked again.
func TestBatchSplit(t *testing.T) {
	b := batchOf(t)
	answers, err := b.Split(&Answer{Status: 200, Body: []byte(`{"results":[{"index":1,"status":400,"error":{"code":"VAL001"}},{"index":0,"status":200,"data":{"id":"c"}}]}`)}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if a := answers[0]; a.Status != 200 || string(a.Body) != `{"id":"c"}` {
		t.Errorf("item 0: %d %s", a.Status, a.Body)
	}
	if a := answers[1]; a.Status != 400 || !strings.Contains(string(a.Body), `"error":{"code":"VAL001"}`) {
		t.Errorf("item 1: %d %s; want the result itself, where there is no data", a.Status, a.Body)
	}
	for body, want := range map[string]string{
		``:                                      "no JSON object",
		`[]`:                                    "no JSON object",
		`{}`:                                    `"results" of the answer is no list`,
		`{"results":7}`:                         `"results" of the answer is no list`,
		`{"results":[]}`:                        "no result 0 of 1",
		`{"results":[{"index":0}]}`:             `"status" of result 0 is no HTTP status`,
		`{"results":[{"index":0,"status":99}]}`: "is no HTTP status",
		`{"results":[{"index":"a","status":200}]}`:                             `"index" of a result is no integer`,
		`{"results":[{"index":1,"status":200}]}`:                               "there is a result 1, and 1 items were sent",
		`{"results":[{"index":-1,"status":200}]}`:                              "there is a result -1",
		`{"results":[{"index":0,"status":200},{"index":0,"status":200}]}`:      "two results 0",
		`{"results":[{"index":0,"status":200,"data":{"id":"` + "x" + `"}},7]}`: `is no list of objects`,
	} {
		if _, err := b.Split(&Answer{Status: 200, Body: []byte(body)}, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("split %s: %v, want %q", body, err, want)
		}
	}
}

// FuzzBatchSplit holds: no answer makes it panic; it gives an answer for each item, each with a status and a body that
// is JSON, or an error.
func FuzzBatchSplit(f *testing.F) {
	f.Add([]byte(`{"results":[{"index":1,"status":400,"error":{}},{"index":0,"status":200,"data":{"id":"c"}}]}`), uint8(2))
	f.Add([]byte(`{"results":[{"index":0,"status":200,"data":null}]}`), uint8(1))
	f.Add([]byte(`{"results":{}}`), uint8(0))
	b := batchOf(f)
	f.Fuzz(func(t *testing.T, body []byte, n uint8) {
		answers, err := b.Split(&Answer{Status: 200, Body: body}, int(n))
		if err != nil {
			return
		}
		if len(answers) != int(n) {
			t.Fatalf("%d answers for %d items", len(answers), n)
		}
		for i, a := range answers {
			if a == nil || a.Status < 100 || a.Status > 599 || !json.Valid(a.Body) {
				t.Fatalf("answer %d: %+v", i, a)
			}
		}
	})
}
