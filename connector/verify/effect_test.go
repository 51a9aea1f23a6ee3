package verify

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const twoEffects = `{"seq":1,"at":"2026-01-02T03:04:05Z","vendor":"plain","operation":"pay","object":"p","reference":"i.1","idempotency_key":"","status":201,"effect":"applied","more":[1]}

{"seq":2,"at":"2026-01-02T03:04:05Z","vendor":"plain","operation":"pay","object":"p","reference":"i.1","idempotency_key":"","status":0,"effect":"replayed"}`

func TestReadEffects(t *testing.T) {
	es, err := CollectEffects(strings.NewReader(twoEffects))
	if err != nil {
		t.Fatal(err)
	}
	if len(es) != 2 || es[0].Reference != "i.1" || es[0].At.Year() != 2026 || es[1].Effect != EffectReplayed {
		t.Errorf("effects: %+v", es)
	}
	for name, c := range map[string]struct{ text, want string }{
		"not json":      {"{\"seq\":1,", "line 1"},
		"cut off":       {twoEffects[:len(twoEffects)-5], "line 3"},
		"two objects":   {strings.ReplaceAll(twoEffects, "\n", ""), "line 1"},
		"seq again":     {strings.ReplaceAll(twoEffects, `"seq":2`, `"seq":1`), "seq 1 does not follow 1"},
		"no seq":        {`{"operation":"pay","effect":"applied"}`, "seq 0"},
		"no operation":  {`{"seq":1,"effect":"applied"}`, "operation"},
		"odd effect":    {`{"seq":1,"operation":"pay","effect":"done"}`, `"done"`},
		"too long":      {`{"seq":1,"operation":"` + strings.Repeat("x", effectLineMax) + `","effect":"read"}`, "longer than"},
		"wrong type":    {`{"seq":"1","operation":"pay","effect":"applied"}`, "line 1"},
		"not an object": {`[]`, "line 1"},
	} {
		if _, err := CollectEffects(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestLoadEffects(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/admin/effects" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(twoEffects)) // a broken connection shows at the reader
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "effects.jsonl")
	if err := os.WriteFile(file, []byte(twoEffects), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{srv.URL + "/admin", srv.URL + "/admin/", srv.URL + "/admin/effects", file} {
		es, err := LoadEffects(t.Context(), srv.Client(), from)
		if err != nil || len(es) != 2 {
			t.Errorf("LoadEffects(%s) = %d effects, %v; want 2", from, len(es), err)
		}
	}
	for _, from := range []string{srv.URL, file + ".not", "http://127.0.0.1:0", "http://bad host/"} {
		if es, err := LoadEffects(t.Context(), nil, from); err == nil {
			t.Errorf("LoadEffects(%s) = %d effects and no error", from, len(es))
		}
	}
}

// FuzzReadEffects: whatever the bytes are, no panic; what is accepted has rising numbers, an operation and a known
// effect, and writing it again reads the same.
func FuzzReadEffects(f *testing.F) {
	f.Add([]byte(twoEffects))
	f.Add([]byte("{}\n{}"))
	f.Add([]byte(`{"seq":9223372036854775807,"operation":"a","effect":"read","at":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte("\r\n\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := CollectEffects(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		last := int64(0)
		for _, e := range es {
			if e.Seq <= last || e.Operation == "" || !slices.Contains([]string{EffectApplied, EffectReplayed, EffectRejected, EffectRead}, e.Effect) {
				t.Fatalf("accepted %+v after seq %d", e, last)
			}
			last = e.Seq
			if err := json.NewEncoder(&again).Encode(e); err != nil {
				t.Fatalf("write %+v: %v", e, err)
			}
		}
		twice, err := CollectEffects(&again)
		if err != nil || len(twice) != len(es) {
			t.Fatalf("read again: %d effects, %v; want %d", len(twice), err, len(es))
		}
		for i := range es {
			if !es[i].At.Equal(twice[i].At) {
				t.Fatalf("line %d: at %v, read again %v", i+1, es[i].At, twice[i].At)
			}
			twice[i].At = es[i].At
			if twice[i] != es[i] {
				t.Fatalf("line %d: %+v, read again %+v", i+1, es[i], twice[i])
			}
		}
	})
}

// FuzzParseOrigin: what is accepted is topic/partition/offset and nothing else.
func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{"canonical.invoice/3/17", "a/b", "//", "a/0/-1", "a/0/9223372036854775808", "/0/1", "a/b/c/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, off, ok := parseOrigin(s)
		if ok && (off < 0 || strings.Count(name, "/") != 1 || !strings.HasPrefix(s, name+"/")) {
			t.Fatalf("parseOrigin(%q) = %q, %d", s, name, off)
		}
	})
}
