package config

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goccy/go-yaml"
)

func noEnv(string) string { return "" }

// designExample is the file of design section 13.
const designExample = `kafka:
  brokers: [localhost:9092]
  # tls: {ca: …, cert: …, key: …}; sasl: {mechanism: SCRAM-SHA-512, user: …, password: "${file:…}"}
schema: {registry: embedded}                 # or https://registry:8081
checkpoint: {store: sqlite:weir.db}          # or postgres://…
ops: {listen: 127.0.0.1:8080}
webhooks: {listen: 127.0.0.1:8081}           # only where a connector uses them
connectors:
  pushcash:
    profile: pushcash                        # built in, or ./my-vendor.yaml
    environment: sandbox                     # or production
    base_url: http://127.0.0.1:9101          # optional: overrides the environment's
    start: earliest                          # or latest, or a time; required in production
    secrets: {api_key: "${env:PUSHCASH_API_KEY}"}
    delivery: {max_in_flight: 128}
`

func TestLoadDesignExample(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, []byte(designExample), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, func(k string) string { return "value of " + k })
	if err != nil {
		t.Fatal(err)
	}
	p := c.Connectors["pushcash"]
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"brokers", strings.Join(c.Kafka.Brokers, ","), "localhost:9092"},
		{"client id", c.Kafka.ClientID, "weir"},
		{"store, relative to the file", c.Checkpoint.SQLite(), filepath.Join(dir, "weir.db")},
		{"webhooks", c.Webhooks.Listen, "127.0.0.1:8081"},
		{"start", p.Start.String(), "earliest"},
		{"own max_in_flight", p.Delivery.MaxInFlight, 128},
		{"inherited attempts_max", p.Delivery.AttemptsMax, 10},
		{"inherited request_timeout", p.Delivery.RequestTimeout.D(), 30 * time.Second},
		{"file's max_in_flight", c.Delivery.MaxInFlight, 256},
		{"window", p.Window, Window{Records: 5000, Bytes: 32 << 20}},
		{"topic", p.Topic("invoice"), "canonical.invoice"},
		{"profile file", p.ProfileFile(), ""},
		{"secret", p.Secrets["api_key"].String(), "${env:PUSHCASH_API_KEY}"},
	} {
		if check.got != check.want {
			t.Errorf("%s = %v, want %v", check.what, check.got, check.want)
		}
	}
	if v, err := p.Secrets["api_key"].Value(); v != "value of PUSHCASH_API_KEY" || err != nil {
		t.Errorf("api_key = %q, %v, want the environment's", v, err)
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "weir.yaml"), noEnv)
	var ce *Error
	if !errors.As(err, &ce) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load of no file = %v, want an *Error around fs.ErrNotExist", err)
	}
}

// minimal is a good file to which a case adds lines.
const minimal = "kafka: {brokers: [b:9092]}\nconnectors:\n  pc:\n    profile: pushcash\n"

func TestProblems(t *testing.T) {
	const token = "hunter2hunter2"
	for name, c := range map[string]struct{ file, want string }{
		"unknown key, near one": {"kafka: {brokers: [b:1], client-id: x}\nconnectors: {pc: {profile: p}}",
			`f.yaml:1:25: kafka.client-id: unknown key (did you mean client_id?)`},
		"unknown key, near none": {minimal + "colour: red\n",
			`f.yaml:5:1: colour: unknown key (known here: kafka, schema, checkpoint, ops, webhooks, delivery, window, connectors)`},
		"same key twice": {"kafka: {brokers: [b:1]}\nkafka: {}\n",
			`f.yaml:2:1: the key kafka stands here twice (keep one of them)`},
		"no YAML":        {"kafka: [\n", `not readable as YAML (check the indentation, quotes and brackets)`},
		"empty":          {"# nothing\n", `f.yaml: the file is empty (it needs at least kafka.brokers and one connector)`},
		"two documents":  {minimal + "---\nkafka: {}\n", `f.yaml:6:1: a second YAML document (keep one document: no --- inside the file)`},
		"missing":        {"ops: {}\n", `kafka.brokers: missing (add it: Bootstrap servers, host:port)`},
		"missing too":    {"ops: {}\n", `connectors: missing (add it: One entry per vendor`},
		"wrong type":     {minimal + "    vars: [a]\n", `f.yaml:5:11: connectors.pc.vars: is a list, want a mapping of keys to values`},
		"text for int":   {minimal + "    delivery: {max_in_flight: many}\n", `f.yaml:5:31: connectors.pc.delivery.max_in_flight: is text, want a whole number (use a whole number, from 1 to 10000)`},
		"explicit zero":  {minimal + "    delivery: {max_in_flight: 0}\n", `f.yaml:5:31: connectors.pc.delivery.max_in_flight: 0 is too small (use a whole number, from 1 to 10000)`},
		"huge":           {minimal + "window: {records: 99999999999999999999}\n", `window.records: `},
		"no unit":        {minimal + "delivery: {request_timeout: 30}\n", `f.yaml:5:29: delivery.request_timeout: is a number without a unit (use a duration with a unit, from 100ms to 10m, such as 30s)`},
		"bad duration":   {minimal + "delivery: {request_timeout: soon}\n", `f.yaml:5:29: delivery.request_timeout: "soon" is not a duration`},
		"too long":       {minimal + "delivery: {request_timeout: 11m}\n", `f.yaml:5:29: delivery.request_timeout: 11m is too large`},
		"bad size":       {minimal + "window: {bytes: 12XB}\n", `f.yaml:5:17: window.bytes: "12XB" is not a size (use a size with a unit, from 64KiB to 16GiB, such as 64MiB)`},
		"null":           {minimal + "    start:\n", `connectors.pc.start: has no value (use earliest, latest or a time such as 2026-01-31T00:00:00Z)`},
		"bad start":      {minimal + "    start: tomorrow\n", `f.yaml:5:12: connectors.pc.start: "tomorrow" is not a start (use earliest, latest or a time`},
		"no start":       {minimal + "    environment: production\n", `f.yaml:3:3: connectors.pc.start: missing: in production the start must be chosen (set start to earliest, latest or a time`},
		"connector name": {"kafka: {brokers: [b:1]}\nconnectors: {Push-Cash: {profile: p}}", `f.yaml:2:14: connectors: "Push-Cash" is not a connector name: a lower-case letter`},
		"connector null": {"kafka: {brokers: [b:1]}\nconnectors: {pc: }", `connectors.pc: has no value`},
		"no profile":     {"kafka: {brokers: [b:1]}\nconnectors: {pc: {start: latest}}", `f.yaml:2:14: connectors.pc.profile: missing`},
		"broker":         {"kafka: {brokers: [b:1, localhost]}\nconnectors: {pc: {profile: p}}", `f.yaml:1:24: kafka.brokers[1]: "localhost" is not a broker (use host:port, such as 127.0.0.1:9092)`},
		"mechanism":      {"kafka: {brokers: [b:1], sasl: {mechanism: GSSAPI, user: u, password: \"${env:P}\"}}\nconnectors: {pc: {profile: p}}", `f.yaml:1:32: kafka.sasl.mechanism: "GSSAPI" is not known (use one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512)`},
		"half mTLS":      {"kafka: {brokers: [b:1], tls: {cert: c.pem}}\nconnectors: {pc: {profile: p}}", `f.yaml:1:25: kafka.tls: cert and key belong together`},
		"open listen":    {minimal + "ops: {listen: \":8080\"}\n", `f.yaml:5:7: ops.listen: ":8080" can be reached from other machines, and there is no token (listen on 127.0.0.1, or set ops.token`},
		"postgres":       {minimal + "checkpoint: {store: \"postgres://u:" + token + "@h/d\"}\n", `checkpoint.store: this build has no postgres store`},
		"store":          {minimal + "checkpoint: {store: \"mysql://u:" + token + "@h/d\"}\n", `checkpoint.store: not a store that this build knows`},
		"url":            {minimal + "    base_url: ftp://x\n", `f.yaml:5:5: connectors.pc.base_url: "ftp://x" is not an http or https URL`},
		"url with login": {minimal + "    base_url: https://u:" + token + "@x\n", `connectors.pc.base_url: the URL holds a user or password`},
		"bad url, login": {minimal + "    base_url: \"https://u:" + token + "@x:y\"\n", `connectors.pc.base_url: the URL holds a user or password`},
		"inline secret":  {minimal + "    secrets: {api_key: " + token + "}\n", `f.yaml:5:24: connectors.pc.secrets.api_key: not a reference; a secret never stands in the file`},
		"nested secret":  {minimal + "    secrets: {api_key: {value: " + token + "}}\n", `connectors.pc.secrets.api_key: not a reference`},
		"almost a ref":   {minimal + "    secrets: {api_key: \"${env:A}" + token + "\"}\n", `connectors.pc.secrets.api_key: not a reference`},
		"no such kind":   {minimal + "    secrets: {api_key: \"${vault:" + token + "}\"}\n", `connectors.pc.secrets.api_key: not a reference`},
		"secrets scalar": {minimal + "    secrets: " + token + "\n", `connectors.pc.secrets: is text, want a mapping`},
		"ref elsewhere":  {minimal + "    base_url: \"${env:URL}\"\n", `connectors.pc.base_url: holds a reference, and references are for secrets alone`},
		"topic":          {minimal + "    topics: {customer: \"a b\"}\n", `f.yaml:5:14: connectors.pc.topics.customer: "a b" is not a topic name`},
		"merge key":      {"kafka: &k {brokers: [b:1]}\nconnectors: {pc: {<<: *k, profile: p}}", `merge keys (<<) are not used here`},
		"alias loop":     {"kafka: &k\n  tls: *k\nconnectors: {pc: {profile: p}}", `kafka.tls`},
		"no anchor":      {"kafka: *k\nconnectors: {pc: {profile: p}}", `f.yaml:1:8: kafka: the alias has no anchor`},
		"tag":            {"kafka: {brokers: [b:1], client_id: !!str x}\nconnectors: {pc: {profile: p}}", `kafka.client_id: YAML tags are not used here`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(c.file), noEnv)
			if err == nil {
				t.Fatalf("Parse accepted:\n%s", c.file)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("Parse of\n%s\n got: %v\nwant: %s", c.file, err, c.want)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the error repeats the secret: %v", err)
			}
		})
	}
}

// All problems come at once, in the order of the file, and a value that is wrong is reported once.
func TestProblemsAllAtOnce(t *testing.T) {
	_, err := Parse("f.yaml", []byte(`kafka: {brokers: localhost:9092}
ops: {listen: 0.0.0.0:8080}
delivery: {request_timeout: 30}
connectors:
  a: {profile: p, environment: production, start: noon}
  b: {profil: p}
`), noEnv)
	var ce *Error
	if !errors.As(err, &ce) {
		t.Fatalf("Parse = %v, want *Error", err)
	}
	var got []string
	for _, p := range ce.Problems {
		got = append(got, fmt.Sprintf("%d %s", p.Line, p.Path))
	}
	want := "1 kafka.brokers, 2 ops.listen, 3 delivery.request_timeout, 5 connectors.a.start, 6 connectors.b.profile, 6 connectors.b.profil"
	if g := strings.Join(got, ", "); g != want {
		t.Errorf("problems:\n got %s\nwant %s", g, want)
	}
	if !strings.HasPrefix(err.Error(), "config f.yaml: 6 problems\n  f.yaml:1:18: kafka.brokers: is text, want a list\n") {
		t.Errorf("Error() = %s", err)
	}
}

func TestAnchorsAndOverrides(t *testing.T) {
	c, err := Parse("dir/f.yaml", []byte(`kafka: {brokers: [b:1], tls: {ca: ca.pem}}
delivery: {max_in_flight: 8, elapsed_max: 1h30m}
connectors:
  a: {profile: ./v.yaml, vars: {n: 12, on: true, s: x}, topics: {customer: t.customer}, window: &w {bytes: 1MiB}}
  b: {profile: b, window: *w, start: 2026-01-31T01:00:00+01:00, delivery: {attempts_max: 3}}
`), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Connectors["a"], c.Connectors["b"]
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"ca", c.Kafka.TLS.CA, filepath.Join("dir", "ca.pem")},
		{"profile", a.ProfileFile(), filepath.Join("dir", "v.yaml")},
		{"vars", fmt.Sprint(a.Vars), "map[n:12 on:true s:x]"},
		{"topic", a.Topic("customer"), "t.customer"},
		{"a window", a.Window, Window{Records: 5000, Bytes: 1 << 20}},
		{"b window", b.Window, Window{Records: 5000, Bytes: 1 << 20}},
		{"b start", b.Start.String(), "2026-01-31T00:00:00Z"},
		{"b attempts", b.Delivery.AttemptsMax, 3},
		{"b in flight", b.Delivery.MaxInFlight, 8},
		{"b elapsed", b.Delivery.ElapsedMax.String(), "1h30m"},
		{"a attempts", a.Delivery.AttemptsMax, 10},
	} {
		if check.got != check.want {
			t.Errorf("%s = %v, want %v", check.what, check.got, check.want)
		}
	}
}

// The effective config means the same as the file, and shows no secret (promise 9).
func TestEffectiveRoundTrip(t *testing.T) {
	const file = `kafka:
  brokers: [b:1]
  tls: {}
  sasl: {mechanism: PLAIN, user: u, password: "${env:KAFKA_PASSWORD}"}
ops: {listen: 0.0.0.0:80, token: "${file:/etc/token}"}
connectors:
  a: {profile: x, start: 2026-01-31T00:00:00Z, secrets: {api_key: "${env:KEY}"}, vars: {flag: "true", n: "012"}}
`
	c, err := Parse("/etc/f.yaml", []byte(file), func(string) string { return "hunter2" })
	if err != nil {
		t.Fatal(err)
	}
	one, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse("/etc/f.yaml", one, noEnv)
	if err != nil {
		t.Fatalf("the effective config is not a config: %v\n%s", err, one)
	}
	two, err := d.Effective()
	if err != nil {
		t.Fatal(err)
	}
	if string(one) != string(two) {
		t.Errorf("effective config of the effective config differs:\n%s\n%s", one, two)
	}
	j, err := c.EffectiveJSON()
	if err != nil || !json.Valid(j) {
		t.Errorf("EffectiveJSON = %s, %v, want JSON", j, err)
	}
	for _, want := range []string{"api_key: ${env:KEY}", "max_in_flight: 256", "request_timeout: 30s", "bytes: 32MiB", `"012"`} {
		if !strings.Contains(string(one), want) {
			t.Errorf("effective config lacks %s:\n%s", want, one)
		}
	}
	if strings.Contains(string(one)+string(j), "hunter2") {
		t.Errorf("the effective config shows a secret:\n%s", one)
	}
}

// Promise 9: no form of a secret shows its value, before and after it was resolved.
func TestSecretNeverPrints(t *testing.T) {
	const value = "hunter2"
	file := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env, _ := NewSecret("${env:KEY}", "", func(string) string { return value })
	fromFile, _ := NewSecret("${file:"+file+"}", "", nil)
	for name, s := range map[string]Secret{"env": env, "file": fromFile, "literal": Literal(value)} {
		if v, err := s.Value(); v != value || err != nil {
			t.Fatalf("%s: Value = %q, %v, want the value", name, v, err)
		}
		type holder struct {
			S Secret
			s Secret
			P *Secret
			M map[string]Secret
		}
		h := holder{s, s, &s, map[string]Secret{"k": s}}
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			fmt.Fprintf(&out, verb+verb+verb+"\n", s, &s, h)
		}
		j, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		y, err := yaml.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := s.MarshalText()
		out.Write(j)
		out.Write(y)
		out.Write(text)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "s", s, "h", h)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "s", s, "h", h)
		if strings.Contains(out.String(), value) || strings.Contains(out.String(), fmt.Sprintf("%x", value)) {
			t.Errorf("%s: printed its value:\n%s", name, out.String())
		}
		if !strings.Contains(out.String(), s.Ref()) {
			t.Errorf("%s: did not print its reference %s", name, s.Ref())
		}
	}
}

func TestSecretFileHeals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	synctest.Test(t, func(t *testing.T) {
		s, ok := NewSecret("${file:s}", filepath.Dir(file), nil)
		if !ok {
			t.Fatal("not a reference")
		}
		write := func(v string) {
			if err := os.WriteFile(file, []byte(v), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want := func(v string) {
			t.Helper()
			if got, err := s.Value(); got != v || err != nil {
				t.Errorf("Value = %q, %v, want %q", got, err, v)
			}
		}
		if _, err := s.Value(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "${file:") {
			t.Errorf("Value of a missing file = %v, want fs.ErrNotExist and the reference", err)
		}
		write("one\r\n")
		want("one") // an error is not kept
		write("two\n\n")
		want("one") // not a second old
		time.Sleep(secretReadEvery)
		want("two\n") // one newline is trimmed, no more
		write("\n")
		time.Sleep(secretReadEvery)
		if v, err := s.Value(); err == nil {
			t.Errorf("Value of an empty file = %q, want an error", v)
		}
		write(strings.Repeat("x", secretBytesMax+1))
		if _, err := s.Value(); err == nil || !strings.Contains(err.Error(), "larger than 64KiB") {
			t.Errorf("Value of a huge file: %v, want larger than 64KiB", err)
		}
		write("three")
		want("three")
	})
}

func TestSecretReferences(t *testing.T) {
	for ref, ok := range map[string]bool{
		"${env:A}": true, "${env:_a1}": true, "${file:/x}": true, "${file:x y}": true,
		"": false, "x": false, "${env:}": false, "${env:1A}": false, "${env:A-B}": false, "${file:}": false, "${file: x}": false,
		"${env:A}x": false, "x${env:A}": false, "${env:A}${env:B}": false, "${ENV:A}": false, "${A}": false, "$A": false, "${file:a\nb}": false,
	} {
		s, got := NewSecret(ref, "", noEnv)
		if got != ok || got == s.IsZero() {
			t.Errorf("NewSecret(%q) = %v, %v, want %v", ref, s, got, ok)
		}
		if _, err := s.Value(); err == nil {
			t.Errorf("NewSecret(%q).Value() gave a value out of nothing", ref)
		}
	}
}

func TestUnits(t *testing.T) {
	for s, want := range map[string]Size{"0B": 0, "1B": 1, "64MiB": 64 << 20, "64 MiB": 64 << 20, "2GB": 2e9, "3KB": 3000, "8589934591GiB": 8589934591 << 30} {
		if got, ok := ParseSize(s); got != want || !ok {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "B", "1", "-1B", "+1B", "1.5MiB", "1mib", "8589934592GiB", "1TiB", "MiB 1"} {
		if got, ok := ParseSize(s); ok {
			t.Errorf("ParseSize(%q) = %d, want it refused", s, got)
		}
	}
	for d, want := range map[Duration]string{Duration(15 * time.Minute): "15m", Duration(2 * time.Hour): "2h", Duration(90 * time.Minute): "1h30m",
		Duration(time.Hour + time.Second): "1h0m1s", Duration(30 * time.Second): "30s", 0: "0s", Duration(10 * time.Minute): "10m"} {
		if got := d.String(); got != want {
			t.Errorf("Duration(%d).String() = %q, want %q", d, got, want)
		}
	}
	if d, ok := ParseDuration("0"); ok {
		t.Errorf("ParseDuration of 0 without a unit = %v, want it refused", d)
	}
}

// WithDefaults is a deep copy: it never writes to the original.
func TestWithDefaultsCopies(t *testing.T) {
	c := &Config{Kafka: Kafka{Brokers: []string{"b:1"}, TLS: &TLS{}}, Connectors: map[string]*Connector{"a": {Profile: "p", Vars: map[string]string{"k": "v"}}, "nil": nil}}
	d := c.WithDefaults()
	d.Kafka.Brokers[0] = "x"
	d.Kafka.TLS.CA = "x"
	d.Connectors["a"].Vars["k"] = "x"
	if c.Kafka.Brokers[0] != "b:1" || c.Kafka.TLS.CA != "" || c.Connectors["a"].Vars["k"] != "v" || c.Connectors["a"].Delivery.MaxInFlight != 0 {
		t.Errorf("WithDefaults wrote to its receiver: %+v", c)
	}
	if err := d.Validate(); err == nil || !strings.Contains(err.Error(), "connectors.nil.profile: missing") {
		t.Errorf("Validate = %v, want connectors.nil.profile missing", err)
	}
	delete(d.Connectors, "nil")
	d.Kafka.Brokers[0] = "b:1"
	if err := d.Validate(); err != nil {
		t.Errorf("Validate of a good config = %v", err)
	}
}

// TestVendorTransport: proxy and certificate authorities of a vendor are strict, and the path of the file is relative
// to the config's.
func TestVendorTransport(t *testing.T) {
	dir := t.TempDir()
	parse := func(keys string) (*Config, error) {
		return Parse(filepath.Join(dir, "weir.yaml"), []byte("kafka: {brokers: [localhost:9092]}\nconnectors:\n  acme:\n    profile: plain\n"+keys), os.Getenv)
	}
	for keys, want := range map[string]string{
		"    proxy: proxy:3128\n":                "5:5: connectors.acme.proxy",
		"    proxy: http://u:topsecret@proxy/\n": "5:5: connectors.acme.proxy: the URL holds a user or password",
		"    tls: {}\n":                          "connectors.acme.tls.ca: missing",
		"    tls: {ca: x, cert: y}\n":            "cert",
	} {
		if _, err := parse(keys); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: error %v, want %q", keys, err, want)
		}
	}
	for _, proxy := range []string{"none", "https://proxy.example:3128"} {
		if c, err := parse("    proxy: " + proxy + "\n"); err != nil || c.Connectors["acme"].Proxy != proxy {
			t.Errorf("proxy %s: %v", proxy, err)
		}
	}
	c, err := parse("    tls: {ca: ca.pem}\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Connectors["acme"].Roots(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "ca.pem")) {
		t.Errorf("a missing file: %v", err)
	}
	srv := httptest.NewTLSServer(nil)
	srv.Close()
	for text, good := range map[string]bool{"no certificate": false, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})): true} {
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if pool, err := c.Connectors["acme"].Roots(); (err == nil) != good || good && pool == nil {
			t.Errorf("a file with %.20q: %v", text, err)
		}
	}
}
