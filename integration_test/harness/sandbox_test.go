package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

const effectLines = `{"seq":1,"at":"2026-01-02T03:04:05Z","vendor":"plain","operation":"pay","object":"p1","reference":"r","idempotency_key":"k","status":201,"effect":"applied"}

{"seq":2,"vendor":"plain","operation":"pay","object":"p1","status":200,"effect":"replayed"}
`

func TestSandboxIsRead(t *testing.T) {
	var faults []string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /effects", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, effectLines) })
	mux.HandleFunc("GET /objects/{id}", func(w http.ResponseWriter, r *http.Request) {
		if id := r.PathValue("id"); id != "a/b" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"name":"x"}`)
	})
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		faults = append(faults, string(b))
		w.WriteHeader(http.StatusNoContent)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	s, ok := parseSandbox(fmt.Sprintf(`{"vendor":"plain","url":"http://127.0.0.1:1/","admin_url":"%s/"}`, srv.URL))
	if !ok || s.AdminURL != srv.URL || s.URL != "http://127.0.0.1:1" {
		t.Fatalf("parseSandbox: %+v, %t", s, ok)
	}
	if es := s.Effects(t); len(es) != 2 || es[0].Status != 201 || es[0].At.Year() != 2026 || es[1].Effect != EffectReplayed {
		t.Errorf("effects: %+v", es)
	}
	if es := s.Applied(t); len(es) != 1 || es[0].Seq != 1 {
		t.Errorf("applied effects: %+v, want the first only", es)
	}
	es := s.WaitEffects(t, waitMax, func(es []Effect) bool { return len(es) == 2 })
	if len(es) != 2 {
		t.Errorf("waited for 2 effects, got %+v", es)
	}
	var obj struct{ Name string }
	if !s.Object(t, "a/b", &obj) || obj.Name != "x" {
		t.Errorf("object a/b: %+v, want name x", obj)
	}
	if s.Object(t, "none", &obj) {
		t.Error("object none exists, want not")
	}
	s.SetFault(t, "outage", true, map[string]any{"seconds": 3})
	s.SetFault(t, "outage", false, nil)
	want := []string{`{"name":"outage","on":true,"seconds":3}`, `{"name":"outage","on":false}`}
	if !reflect.DeepEqual(faults, want) {
		t.Errorf("faults posted: %q, want %q", faults, want)
	}
}

func TestEffectsThatBreakTheContractAreRefused(t *testing.T) {
	for _, bad := range []string{
		`{"seq":1,"effect":"done"}`,
		`{"seq":1,"effect":"applied"}` + "\n" + `{"seq":1,"effect":"applied"}`,
		`{"seq":"x"}`,
		`[]`,
	} {
		if es, err := parseEffects([]byte(bad)); err == nil {
			t.Errorf("parseEffects(%q): %+v, want an error", bad, es)
		}
	}
}

func TestOtherLinesAreNotASandbox(t *testing.T) {
	for _, line := range []string{"", "{}", "null", "started", `{"vendor":"plain"}`, `{"vendor":"plain","url":"u"}`} {
		if s, ok := parseSandbox(line); ok {
			t.Errorf("parseSandbox(%q): %+v, want none", line, s)
		}
	}
}

// FuzzParseEffects: any bytes give effects or an error; the effects are numbered upwards and of the closed set,
// and written back they are read the same.
func FuzzParseEffects(f *testing.F) {
	f.Add([]byte(effectLines))
	f.Add([]byte(`{"seq":-1,"effect":"read"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := parseEffects(b)
		if err != nil {
			return
		}
		var out strings.Builder
		for _, e := range es {
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatalf("write %+v back: %v", e, err)
			}
			out.Write(append(line, '\n'))
		}
		again, err := parseEffects([]byte(out.String()))
		if err != nil || len(again) != len(es) {
			t.Fatalf("read back: %d effects, %v, want %d", len(again), err, len(es))
		}
		for i := range es {
			if a, b := again[i], es[i]; a.Seq != b.Seq || a.Object != b.Object || a.Effect != b.Effect || !a.At.Equal(b.At) {
				t.Errorf("read back %+v, want %+v", a, b)
			}
		}
	})
}

// FuzzParseSandbox: any line gives a complete sandbox or none.
func FuzzParseSandbox(f *testing.F) {
	f.Add(`{"vendor":"plain","url":"http://127.0.0.1:1","admin_url":"http://127.0.0.1:2"}`)
	f.Add(`{"vendor":"plain","url":"/","admin_url":"/"}`)
	f.Fuzz(func(t *testing.T, line string) {
		s, ok := parseSandbox(line)
		if ok != (s.Vendor != "" && s.URL != "" && s.AdminURL != "") {
			t.Errorf("parseSandbox(%q): %+v, %t", line, s, ok)
		}
		if strings.HasSuffix(s.URL, "/") || strings.HasSuffix(s.AdminURL, "/") {
			t.Errorf("parseSandbox(%q): %+v ends with a slash", line, s)
		}
	})
}

// TestSandboxOfTheBinary holds the binary's sandbox to what the helpers expect of it.
func TestSandboxOfTheBinary(t *testing.T) {
	s := StartSandbox(t, NewWeir(t, Build{}), "plain")
	put := func(id string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/things/"+id, strings.NewReader(`{"name":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := put("t1"); status/100 != 2 {
		t.Fatalf("PUT /things/t1: status %d, want 2xx", status)
	}
	es := s.WaitEffects(t, waitMax, func(es []Effect) bool { return len(es) > 0 })
	if e := es[0]; len(es) != 1 || e.Effect != EffectApplied || e.Vendor != "plain" || e.At.IsZero() {
		t.Errorf("effects after one PUT: %+v, want one that was applied", es)
	}
	var obj map[string]any
	if !s.Object(t, es[0].Object, &obj) {
		t.Errorf("object %s is not there", es[0].Object)
	}
	if r := s.Process.Stop(t, waitMax); r.Code != 0 {
		t.Errorf("sandbox after SIGTERM: exit code %d, want 0", r.Code)
	}
}
