package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

// oldStore makes a store as a build of the schema version left it, with one parked record that was released and
// parked again, and the state of its entity.
func oldStore(t *testing.T, path string, version int) {
	t.Helper()
	var text strings.Builder
	for _, file := range migrationFiles()[:version] {
		b, err := migrations.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	fmt.Fprintf(&text, "PRAGMA application_id = %d; PRAGMA user_version = %d;", applicationID, version)
	text.WriteString(`INSERT INTO meta (name, value) VALUES ('store_id', 'the id');
		INSERT INTO mappings (version, text) VALUES ('v', 'text');
		INSERT INTO words (id, text) VALUES (1, 'pushcash'), (2, 'create'), (3, 'held'), (4, 'customer'), (5, 'upsert'), (6, 'customer/2'), (7, 'map-1');
		INSERT INTO partitions (id, connector, topic, topic_id, idx, epoch, mark, horizon, lost_below, last, fresh)
		  VALUES (1, 1, 'canonical.customer', zeroblob(16), 0, 3, 9, 9, 0, 10, 0);
		INSERT INTO counts (connector, route, outcome, n) VALUES (1, 2, 7, 1), (1, 2, 2, 1);
		INSERT INTO states (connector, entity, key, tenant, present, state) VALUES (1, 4, 'cus-1', 'acme', 1, '{"Tenant":"acme","IDs":{"user_id":"usr_1"}}');`)
	if version < 7 {
		text.WriteString(`INSERT INTO ledger (part, off, route, outcome, cause, at, leader_epoch, event_hash, event_id, type, source, correlation,
		    tenant, entity, key, version, operation, occurred_at, schema, reason, rule, path, superseded_by, vendor_id, generation, mapping, plan, attempts, past)
		  VALUES (1, 9, 2, 7, 3, 1780000000123, 4, -5, 'evt-9', 'customer.changed', 'crm', 'req-"9"', 'acme', 4, 'cus-1', 12, 5, 0, 6,
		    'why', 'rule-1', '/a/b', 'evt-10', 'usr_1', 2, 7, '[{"step":"create","operation":"create_user","idempotency_key":"k1"}]',
		    '[{"n":1,"at":1780000000100,"step":"create","status":503,"verdict":"retry","sent":"answered"}]', '["k0"]');
		INSERT INTO ledger (part, off, route, outcome, leader_epoch, event_hash, version, generation) VALUES (1, 10, 2, 2, 0, 0, 0, 0);`)
	} else {
		row := `{"cause":"held","at":1780000000123,"leader_epoch":4,"event_hash":-5,"event_id":"evt-9","type":"customer.changed","source":"crm","correlation":"req-\"9\"",` +
			`"tenant":"acme","entity":"customer","key":"cus-1","version":12,"operation":"upsert","occurred_at":0,"schema":"customer/2","reason":"why","rule":"rule-1",` +
			`"path":"/a/b","superseded_by":"evt-10","vendor_id":"usr_1","generation":2,"mapping":"map-1","plan":[{"step":"create","operation":"create_user","idempotency_key":"k1"}],` +
			`"attempts":[{"n":1,"at":1780000000100,"step":"create","status":503,"verdict":"retry","sent":"answered"}],"past":["k0"]}`
		fmt.Fprintf(&text, `INSERT INTO chunks (id, texts) VALUES (1, CAST('%s{}' AS BLOB));
		INSERT INTO ledger (part, off, route, outcome, chunk, start, size) VALUES (1, 9, 2, 7, 1, 1, %d), (1, 10, 2, 2, 1, %d, 2);`, row, len(row), len(row)+1)
	}
	runSQL(t, path, text.String())
}

// A store of each earlier build is migrated with all that it holds.
func TestMigrate(t *testing.T) {
	for version := 1; version < len(migrationFiles()); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "weir.db")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			oldStore(t, path, version)
			s := mustOpen(t, path, Options{})
			if s.ID() != "the id" {
				t.Error("the store has another id")
			}
			if text, err := s.Mapping(t.Context(), "v"); err != nil || string(text) != "text" {
				t.Errorf("mapping %q, %v", text, err)
			}
			p := checkpoint.Partition{Connector: "pushcash", Topic: "canonical.customer"}
			rows, err := s.Rows(t.Context(), p, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			want := []checkpoint.Row{
				{Partition: p, Offset: 9, Route: "create", LeaderEpoch: 4, EventHash: 1<<64 - 5,
					Event: checkpoint.Event{ID: "evt-9", Type: "customer.changed", Source: "crm", CorrelationID: `req-"9"`, Tenant: "acme", Entity: "customer",
						Key: "cus-1", Version: 12, Operation: "upsert", OccurredAt: time.UnixMilli(0).UTC(), Schema: "customer/2"},
					Outcome: checkpoint.ParkedOut, Cause: checkpoint.CauseHeld, Reason: "why", Rule: "rule-1", Path: "/a/b", SupersededBy: "evt-10",
					VendorID: "usr_1", Generation: 2, Mapping: "map-1",
					Plan:     []checkpoint.Step{{Step: "create", Operation: "create_user", IdempotencyKey: "k1"}},
					Attempts: []checkpoint.Attempt{{N: 1, At: time.UnixMilli(1_780_000_000_100).UTC(), Step: "create", Status: 503, Verdict: "retry", Sent: checkpoint.Answered}},
					At:       time.UnixMilli(1_780_000_000_123).UTC()},
				{Partition: p, Offset: 10, Route: "create", Outcome: checkpoint.Accepted},
			}
			if !reflect.DeepEqual(rows, want) {
				t.Errorf("rows\n%+v, want\n%+v", rows, want)
			}
			states, err := s.States(t.Context(), "pushcash", []checkpoint.EntityKey{{Entity: "customer", Key: "cus-1"}})
			if err != nil || len(states) != 1 {
				t.Errorf("%d states, %v", len(states), err)
			}
			if err := s.SaveNonces(t.Context(), []checkpoint.Nonce{{Connector: "c", ID: "a", Until: time.Now().Add(time.Hour)}}); err != nil {
				t.Error(err)
			}
			// A parked row still gives way to its successor, and keeps its past.
			l := mustAcquire(t, s, p)
			r := rowAt(p, 9)
			r.Outcome = checkpoint.Delivered
			mustSettle(t, s, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r}}})
			rows, err = s.Rows(t.Context(), p, 9, 10)
			if err != nil || len(rows) != 1 || rows[0].Outcome != checkpoint.Delivered || len(rows[0].Attempts) < 1 || rows[0].Attempts[0] != want[0].Attempts[0] {
				t.Errorf("after it was delivered: %+v, %v", rows, err)
			}
		})
	}
}
