package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/integration_test/harness"
)

// A history is what the independent checker is asked to judge: weir verify reads Kafka, the store beside a running
// weir or after it, and the sandbox's effects log.
type history struct {
	Cluster   *harness.Cluster
	Store     string // file of the SQLite store
	Connector string
	Vendor    string // name of the profile and of the sandbox
	Vars      string // of the connector, YAML
	// Topics maps entities to topics where they are not canonical.<entity>.
	Topics map[string]string
	Config string // further lines of the config
	// Sandbox is asked for its effects; nil: nothing is said about effects.
	Sandbox *harness.Sandbox
	// Complete: every record up to the end must have its outcomes.
	Complete bool
}

// verifyHistory returns the report of weir verify, clean or not.
func verifyHistory(t testing.TB, v history) *verify.Report {
	t.Helper()
	w := harness.NewWeir(t, harness.Build{})
	file := filepath.Join(t.TempDir(), "verify.yaml")
	var topics []string
	for _, e := range slices.Sorted(maps.Keys(v.Topics)) {
		topics = append(topics, fmt.Sprintf("%s: %q", e, v.Topics[e]))
	}
	text := fmt.Sprintf("kafka: {brokers: [%s]}\ncheckpoint: {store: %q}\nconnectors: {%s: {profile: %s, topics: {%s}, vars: {%s}, secrets: {api_key: %q}}}\n",
		v.Cluster.Addr, "sqlite:"+v.Store, v.Connector, v.Vendor, strings.Join(topics, ", "), v.Vars, "${env:NO_KEY}") + v.Config // no request is made
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--config", file, "--connector", v.Connector, "--json"}
	if v.Sandbox != nil {
		args = append(args, "--effects", v.Sandbox.AdminURL)
	}
	if v.Complete {
		args = append(args, "--complete")
	}
	r := w.Run(t, args...)
	rep := new(verify.Report)
	if err := json.Unmarshal([]byte(r.Stdout), rep); err != nil {
		t.Fatalf("weir %s: exit code %d, no report: %v\n%s%s", strings.Join(args, " "), r.Code, err, tail(r.Stdout), r.Stderr)
	}
	want := 0
	if !rep.Clean() {
		want = 1
	}
	if r.Code != want {
		t.Fatalf("weir %s: exit code %d, want %d for this report\n%s%s", strings.Join(args, " "), r.Code, want, tail(r.Stdout), r.Stderr)
	}
	return rep
}

// verifyClean is verifyHistory for one without any finding.
func verifyClean(t testing.TB, v history) *verify.Report {
	t.Helper()
	rep := verifyHistory(t, v)
	if !rep.Clean() {
		b, err := json.MarshalIndent(rep, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("the checker's verdict is not clean: %s", b)
	}
	return rep
}
