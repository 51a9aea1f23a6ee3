package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/weirsync/weir/checkpoint/sqlite"
)

// A wrongInput is something that a person got wrong, and the command that is to say so.
type wrongInput struct {
	name    string
	config  string // of weir.yaml, "" for the good one; $BROKER, $VENDOR, $REFUSED, $DIR and the like stand for what runs here
	stdin   string
	args    string
	prepare func(t *testing.T, dir string)
}

const (
	wrongHead = "kafka: {brokers: [$BROKER]}\n"
	wrongTail = "connectors:\n  pc:\n    profile: plain\n    base_url: $VENDOR\n"
	wrongGood = wrongHead + "ops: {listen: 127.0.0.1:0}\n" + wrongTail
)

// wrongProfile is a profile file with one operation and one route; $MAP stands for the mapping's lines.
const wrongProfile = `profile: mine
version: "1"
environments:
  sandbox: {base_url: http://127.0.0.1:9104}
auth: {kind: bearer, secret: api_key, optional: true}
verdicts:
  - {status: 4xx, verdict: reject, reason: refused_by_vendor}
operations:
  put_customer:
    method: PUT
    path: /things/{id}
    class: overwrite
    body:
      name: {type: string, required: true}
      amount: integer
routes:
  customer:
    entity: customer
    semantics: latest
    steps:
      put:
        operation: put_customer
        params: {id: entity.id}
        map:
          $MAP
        remember:
          vendor_id: entity.id
    cases:
      - steps: [put]
`

func withProfile(text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { write(t, filepath.Join(dir, "mine.yaml"), text) }
}

func withMap(lines string) func(*testing.T, string) {
	return withProfile(strings.Replace(wrongProfile, "$MAP", lines, 1))
}

const configMine = wrongHead + "connectors:\n  pc:\n    profile: ./mine.yaml\n"

func wrongInputs() []wrongInput {
	print := "config print"
	line := func(change, to string) string { return strings.Replace(customer(1, 1, 1), change, to, 1) }
	return []wrongInput{
		// Config.
		{name: "no config file", args: print + " --config nowhere.yaml"},
		{name: "a folder as config", args: print + " --config $DIR"},
		{name: "empty file", config: " \n# nothing here\n", args: print},
		{name: "file too large", args: print, prepare: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "weir.yaml"), strings.Repeat("# a config is not this long\n", 200_000))
		}},
		{name: "not UTF-8", config: wrongGood + "    vars: {a: \"\xff\xfe\"}\n", args: print},
		{name: "tab as indentation", config: "kafka:\n\tbrokers: [b:1]\n", args: print},
		{name: "no YAML", config: "kafka: {brokers: [b:1]\n", args: print},
		{name: "a list as file", config: "- kafka\n- connectors\n", args: print},
		{name: "two documents", config: wrongGood + "---\nkafka: {}\n", args: print},
		{name: "unknown key at the top", config: wrongGood + "kafak: {}\n", args: print},
		{name: "unknown key in kafka", config: "kafka: {brokers: [b:1], clientid: x}\n" + wrongTail, args: print},
		{name: "unknown key in a connector", config: wrongGood + "    secret: {}\n", args: print},
		{name: "unknown key in delivery", config: wrongGood + "    delivery: {maxinflight: 3}\n", args: print},
		{name: "unknown key in a limit", config: wrongGood + "    limits: {all: {rate: 3}}\n", args: print},
		{name: "key twice", config: wrongGood + "ops: {}\n", args: print},
		{name: "connector twice", config: wrongGood + "  pc: {profile: plain}\n", args: print},
		{name: "connector name", config: wrongHead + "connectors:\n  Push Cash: {profile: plain}\n", args: print},
		{name: "no connectors", config: wrongHead, args: print},
		{name: "no profile", config: wrongHead + "connectors: {pc: {}}\n", args: print},
		{name: "list instead of mapping", config: wrongHead + "connectors: [plain]\n", args: print},
		{name: "text instead of list", config: "kafka: {brokers: localhost:9092}\n" + wrongTail, args: print},
		{name: "number out of bounds", config: wrongGood + "    delivery: {max_in_flight: 100000}\n", args: print},
		{name: "number with quotes", config: wrongGood + "    delivery: {max_in_flight: \"10\"}\n", args: print},
		{name: "duration without unit", config: wrongGood + "    delivery: {elapsed_max: 15}\n", args: print},
		{name: "bad duration", config: wrongGood + "    delivery: {elapsed_max: 15 minutes}\n", args: print},
		{name: "bad size", config: wrongGood + "    window: {bytes: 32 megabytes}\n", args: print},
		{name: "start not chosen in production", config: wrongGood + "    environment: production\n", args: print},
		{name: "bad start", config: wrongGood + "    start: yesterday\n", args: print},
		{name: "secret in the file", config: wrongGood + "    secrets: {api_key: sk_live_51H}\n", args: print},
		{name: "rotation of no secret", config: wrongGood + "    rotation: {api_key: {max_age: 2160h}}\n", args: print},
		{name: "rotation to the same value", config: wrongGood + "    secrets: {api_key: \"${file:key}\"}\n    rotation: {api_key: {previous: \"${file:key}\"}}\n", args: print},
		{name: "rotation on no day", config: wrongGood + "    secrets: {api_key: \"${file:key}\"}\n    rotation: {api_key: {expires: 2026-02-30}}\n", args: print},
		{name: "age of an environment variable", config: wrongGood + "    secrets: {api_key: \"${env:KEY}\"}\n    rotation: {api_key: {max_age: 2160h}}\n", args: print},
		{name: "previous secret in the file", config: wrongGood + "    secrets: {api_key: \"${file:key}\"}\n    rotation: {api_key: {previous: sk_live_51H}}\n", args: print},
		{name: "secret outside secrets", config: wrongGood + "    vars: {webhook_url: \"${env:URL}\"}\n", args: print},
		{name: "broker without port", config: "kafka: {brokers: [localhost]}\n" + wrongTail, args: print},
		{name: "broker as URL", config: "kafka: {brokers: [\"kafka://localhost:9092\"]}\n" + wrongTail, args: print},
		{name: "unknown SASL mechanism", config: "kafka: {brokers: [b:1], sasl: {mechanism: SCRAM-SHA-1, user: u, password: \"${env:P}\"}}\n" + wrongTail, args: print},
		{name: "half a client certificate", config: "kafka: {brokers: [b:1], tls: {cert: c.pem}}\n" + wrongTail, args: print},
		{name: "unknown store", config: wrongGood + "checkpoint: {store: \"mysql://u:hunter2@db/weir\"}\n", args: print},
		{name: "registry is no URL", config: wrongGood + "schema: {registry: registry:8081}\n", args: print},
		{name: "password in the base URL", config: wrongHead + "connectors: {pc: {profile: plain, base_url: \"https://u:hunter2@api.example.com\"}}\n", args: print},
		{name: "listener open without token", config: wrongHead + "ops: {listen: 0.0.0.0:8080}\n" + wrongTail, args: print},
		{name: "alias without anchor", config: "kafka: *there\n" + wrongTail, args: print},
		{name: "merge key", config: "kafka: &k {brokers: [b:1]}\nops:\n  <<: *k\n" + wrongTail, args: print},
		{name: "YAML tag", config: "kafka: {brokers: !!str b}\n" + wrongTail, args: print},
		{name: "environment variable not set", config: wrongGood + "    secrets: {api_key: \"${env:NOT_SET}\"}\n", args: "check"},
		{name: "secret's file missing", config: wrongGood + "    secrets: {api_key: \"${file:nokey}\"}\n", args: "check"},
		{name: "secret's file empty", config: wrongGood + "    secrets: {api_key: \"${file:empty}\"}\n", args: "check",
			prepare: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "empty"), "\n") }},
		{name: "secret's file too large", config: wrongGood + "    secrets: {api_key: \"${file:large}\"}\n", args: "check",
			prepare: func(t *testing.T, dir string) {
				write(t, filepath.Join(dir, "large"), strings.Repeat("x", 70_000))
			}},
		{name: "CA file missing", config: "kafka: {brokers: [$BROKER], tls: {ca: ca.pem}}\n" + wrongTail, args: "run"},
		{name: "CA file is no PEM", config: "kafka: {brokers: [$BROKER], tls: {ca: weir.yaml}}\n" + wrongTail, args: "run"},
		{name: "schema folder missing", config: wrongGood + "schema: {dir: ./no-schemas}\n", args: "run"},
		{name: "limit that the profile has not", config: wrongHead + "connectors: {pc: {profile: pushcash, limits: {create: {n: 5}}}}\n", args: "run"},
		{name: "variable that the profile has not", config: wrongGood + "    vars: {colour: red}\n", args: "run"},
		{name: "environment that the profile has not", config: wrongGood + "    environment: staging\n", args: "run"},

		// Profile files.
		{name: "unknown built-in profile", config: wrongHead + "connectors: {pc: {profile: pushcsh}}\n", args: "run"},
		{name: "profile file missing", config: configMine, args: "run"},
		{name: "profile: unknown key", config: configMine, args: "run", prepare: withProfile(strings.Replace(strings.Replace(wrongProfile, "$MAP", "name: event.legal_name", 1), "semantics:", "semantic:", 1))},
		{name: "profile: unknown event field", config: configMine, args: "run", prepare: withMap("name: event.legalname")},
		{name: "profile: unknown body field", config: configMine, args: "run", prepare: withMap("nmae: event.legal_name")},
		{name: "profile: wrong type", config: configMine, args: "run", prepare: withMap("name: event.legal_name\n          amount: event.legal_name")},
		{name: "profile: required field not mapped", config: configMine, args: "run", prepare: withMap("amount: \"1\"")},
		{name: "profile: broken CEL", config: configMine, args: "run", prepare: withMap("name: \"event.legal_name +\"")},
		{name: "profile: unknown operation", config: configMine, args: "run", prepare: withProfile(strings.Replace(strings.Replace(wrongProfile, "$MAP", "name: event.legal_name", 1), "operation: put_customer", "operation: put_custmer", 1))},
		{name: "profile: unknown entity", config: configMine, args: "run", prepare: withProfile(strings.Replace(strings.Replace(wrongProfile, "$MAP", "name: event.legal_name", 1), "entity: customer", "entity: custmer", 1))},

		// Command line.
		{name: "unknown command", args: "rnu"},
		{name: "unknown subcommand", args: "parked list"},
		{name: "unknown flag", args: "run --conector pc"},
		{name: "flag without value", args: "run --connector"},
		{name: "flag of the wrong type", args: "publish --sample many"},
		{name: "missing argument", args: "trace"},
		{name: "argument too many", args: "status pc"},
		{name: "unknown connector to run", args: "run --connector pushcash"},
		{name: "unknown connector of parked", args: "parked ls --connector pushcash"},
		{name: "limit scale of nothing", args: "run --limit-scale 0"},
		{name: "gap that is no partition", args: "run --accept-gap canonical.invoice"},
		{name: "store-lost of nobody", args: "run --store-lost nobody"},
		{name: "log level", args: "status --log-level loud"},
		{name: "log format", args: "status --log-format xml"},
		{name: "publish without a file", args: "publish"},
		{name: "publish of no such file", args: "publish nowhere.jsonl"},
		{name: "publish --sample with a file", args: "publish --sample 5 events.jsonl"},
		{name: "sandbox of nothing", args: "sandbox"},
		{name: "sandbox of an unknown vendor", args: "sandbox pushcsh"},
		{name: "sandbox on a public address", args: "sandbox plain --listen 0.0.0.0:0"},
		{name: "sandbox with an unknown switch", args: "sandbox plain --switch colour=red"},
		{name: "sandbox with an unknown fault", args: "sandbox plain --fault throtle=rate:0.1"},
		{name: "unknown cause of parked", args: "parked ls --cause rejectd"},

		// Lines to publish.
		{name: "line: no JSON", stdin: "{\"event_id\":\n", args: "publish - --dry-run --entity customer"},
		{name: "line: a list", stdin: "[1]\n", args: "publish - --dry-run --entity customer"},
		{name: "line: unknown field", stdin: line(`"legal_name"`, `"legalname"`), args: "publish - --dry-run"},
		{name: "line: wrong type", stdin: line(`"entity_version":1`, `"entity_version":"one"`), args: "publish - --dry-run"},
		{name: "line: missing field", stdin: line(`"tenant":"acme",`, ``), args: "publish - --dry-run"},
		{name: "line: unknown enum value", stdin: line(`"kind":"person"`, `"kind":"persona"`), args: "publish - --dry-run"},
		{name: "line: no such entity", stdin: `{"entity":"order","event":{}}`, args: "publish - --dry-run"},
		{name: "line: breaks a rule", stdin: line(`"currency":"USD"`, `"currency":"XQQ"`), args: "publish - --dry-run"},
		{name: "line: bad time", stdin: line(`2026-01-01T00:00:00Z`, `first of May`), args: "publish - --dry-run"},
		{name: "line: number too large", stdin: line(`"entity_version":1`, `"entity_version":99999999999999999999`), args: "publish - --dry-run"},

		// Kafka.
		{name: "Kafka unreachable", config: "kafka: {brokers: [$REFUSED]}\n" + wrongTail, stdin: customer(1, 1, 1), args: "publish -"},
		{name: "Kafka: TLS to a plain port", config: "kafka: {brokers: [$PLAIN], tls: {}}\n" + wrongTail, stdin: customer(1, 1, 1), args: "publish -"},
		{name: "Kafka: wrong password", config: "kafka: {brokers: [$SASL], sasl: {mechanism: PLAIN, user: weir, password: \"${file:password}\"}}\n" + wrongTail, stdin: customer(1, 1, 1), args: "publish -",
			prepare: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "password"), "hunter2") }},
		{name: "Kafka: topic missing", stdin: customer(1, 1, 1), args: "publish -"},

		// Store.
		{name: "store missing", args: "status"},
		{name: "store is a folder", config: wrongGood + "checkpoint: {store: \"sqlite:.\"}\n", args: "run"},
		{name: "store in no folder", config: wrongGood + "checkpoint: {store: \"sqlite:nowhere/weir.db\"}\n", args: "run"},
		{name: "store is another file", config: wrongGood + "checkpoint: {store: \"sqlite:weir.yaml\"}\n", args: "status"},
		{name: "store of a newer build", args: "status", prepare: func(t *testing.T, dir string) {
			openStoreFile(t, dir)
			execStore(t, dir, "PRAGMA user_version = 9999")
		}},
		{name: "store locked", args: "run", prepare: func(t *testing.T, dir string) {
			s, err := sqlite.Open(context.Background(), filepath.Join(dir, "weir.db"), sqlite.Options{Role: sqlite.Runner})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
		}},
		{name: "trace of an unknown id", args: "trace nobody", prepare: openStoreFile},
		{name: "parked show of an unknown id", args: "parked show nobody", prepare: openStoreFile},

		// Vendor, registry, listener.
		{name: "vendor refuses the key", args: "check", config: wrongHead + "connectors: {pc: {profile: pushcash, base_url: $UNAUTHORIZED, secrets: {api_key: \"${file:key}\"}}}\n"},
		{name: "key of another environment", args: "check", config: wrongHead + "connectors: {pc: {profile: finfusion, base_url: $UNAUTHORIZED, secrets: {api_key: \"${file:key}\"}}}\n"},
		{name: "previous key of another environment", args: "check", config: wrongHead + "connectors: {pc: {profile: finfusion, base_url: $UNAUTHORIZED, secrets: {api_key: \"${file:dev}\"}, rotation: {api_key: {previous: \"${file:key}\"}}}}\n"},
		{name: "vendor unreachable", args: "check", config: wrongHead + "connectors: {pc: {profile: pushcash, base_url: \"http://$REFUSED\", secrets: {api_key: \"${file:key}\"}}}\n"},
		{name: "vendor's certificate unknown", args: "check", config: wrongHead + "connectors: {pc: {profile: pushcash, base_url: $TLS, secrets: {api_key: \"${file:key}\"}}}\n"},
		{name: "registry unreachable", args: "check", config: wrongGood + "schema: {registry: \"http://$REFUSED\"}\n"},
		{name: "registry refuses us", args: "check", config: wrongGood + "schema: {registry: $UNAUTHORIZED}\n"},
		{name: "ops port in use", args: "run", config: wrongHead + "ops: {listen: $TAKEN}\n" + wrongTail},
	}
}

func openStoreFile(t *testing.T, dir string) {
	t.Helper()
	s, err := sqlite.Open(context.Background(), filepath.Join(dir, "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func execStore(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "weir.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

var (
	anyAddress = regexp.MustCompile(`127\.0\.0\.1:[0-9]{4,5}`)
	anyProcess = regexp.MustCompile(`process [0-9]+ holds`)
	anyStore   = regexp.MustCompile(`versions up to [0-9]+`) // grows with each migration
	anyTime    = regexp.MustCompile(`in [0-9.]+ s\b`)
	anyList    = regexp.MustCompile(`(use one of|built in are|known:) [a-z_]+, [a-z_, ]+`) // grows with the program
	failed     = regexp.MustCompile(`(?m)^fail  (?:config|secret|registry|store|kafka|connector pc (?:credential|profile)).*\n(?:        hint: .*\n)?`)
	anyLog     = regexp.MustCompile(`(?m)^\{"time".*\n`) // log lines of run before it ends
)

// TestWrongInputs holds what weir says to everything that a person gets wrong, with its exit code: what, where, why,
// what to do. Each message was read and judged; a change of one shows here.
func TestWrongInputs(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	secured, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "weir", "right"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(secured.Close)
	vendor := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(vendor.Close)
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(refuses.Close)
	private := httptest.NewUnstartedServer(http.NotFoundHandler())
	private.Config.ErrorLog = log.New(io.Discard, "", 0) // the client's refusal is what is wanted
	private.StartTLS()
	t.Cleanup(private.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	var out strings.Builder
	seen := map[string]bool{}
	for _, c := range wrongInputs() {
		if seen[c.name] {
			t.Fatalf("two cases are named %q", c.name)
		}
		seen[c.name] = true
		dir := t.TempDir()
		fill := strings.NewReplacer("$BROKER", cluster.ListenAddrs()[0], "$SASL", secured.ListenAddrs()[0], "$VENDOR", vendor.URL, "$PLAIN", vendor.Listener.Addr().String(), "$REFUSED", closed.Addr().String(),
			"$UNAUTHORIZED", refuses.URL, "$TLS", private.URL, "$TAKEN", taken.Addr().String(), "$DIR", dir)
		text := c.config
		if text == "" {
			text = wrongGood
		}
		write(t, filepath.Join(dir, "weir.yaml"), fill.Replace(text))
		write(t, filepath.Join(dir, "key"), "secret-key")
		write(t, filepath.Join(dir, "dev"), "dev_key")
		if c.prepare != nil {
			c.prepare(t, dir)
		}
		r := invoke(t, dir, func(e *Env) {
			e.Stdin = strings.NewReader(c.stdin)
			e.RunConnector = func(context.Context, connectorRun) error {
				t.Errorf("%s: a connector runs", c.name)
				return nil
			}
		}, strings.Fields(fill.Replace(c.args))...)
		said := anyLog.ReplaceAllString(r.stderr, "") + r.stdout
		said = strings.ReplaceAll(said, dir+string(os.PathSeparator), "")
		said = strings.ReplaceAll(said, dir, "DIR")
		said = anyProcess.ReplaceAllString(anyAddress.ReplaceAllString(said, "127.0.0.1:PORT"), "process N holds")
		said = anyStore.ReplaceAllString(said, "versions up to N")
		said = anyTime.ReplaceAllString(said, "in N s")
		said = anyList.ReplaceAllString(said, "$1 ...")
		if c.args == "check" {
			said = strings.Join(failed.FindAllString(said, -1), "")
		}
		if r.code == exitDone || said == "" {
			t.Errorf("%s: exit code %d and %q, want it refused with a message", c.name, r.code, said)
		}
		if strings.Contains(said, "hunter2") || strings.Contains(said, "secret-key") || strings.Contains(said, "sk_live") {
			t.Errorf("%s: the message shows a secret: %s", c.name, said)
		}
		fmt.Fprintf(&out, "## %s\n$ weir %s\n%sexit code %d\n\n", c.name, c.args, said, r.code)
	}
	golden(t, "wrong_inputs.txt", out.String())
}
