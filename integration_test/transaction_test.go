package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/integration_test/harness"
)

// A producer that aborts every third transaction: nothing of an aborted one reaches the vendor, and the markers, which
// are the last records of the partitions, do not keep the lag above 0 (promise 1, design section 3).
func TestAbortedTransactions(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	const transactions, each = 30, 12
	txn := b.cluster.Client(t, kgo.TransactionalID(b.name+"-txn"))
	weir := b.start() // reads beside the producer
	aborted, committed := 0, 0
	transact := func(n int) {
		t.Helper()
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		end, kind := kgo.TryCommit, "good"
		if n%3 == 2 {
			end, kind = kgo.TryAbort, "aborted"
		}
		var rs []*kgo.Record
		for i := range each {
			e := customer(fmt.Sprintf("%s-%d", kind, i), int64(n+1))
			if i%2 == 1 {
				e = invoice(fmt.Sprintf("%s-inv-%d-%d", kind, n, i), fmt.Sprintf("%s-0", kind), 1, 100)
			}
			rs = append(rs, b.record(e))
		}
		b.produce(txn, rs...)
		if err := txn.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if end == kgo.TryCommit {
			committed += each
		} else {
			aborted += each
		}
	}
	for n := range transactions {
		transact(n)
	}
	b.waitLag0()
	transact(transactions + 2) // aborted, and nothing comes behind it that would move the mark
	b.waitLag0()
	b.stop(weir)
	for _, e := range b.sandbox.Effects(t) {
		if strings.Contains(e.Object+e.Reference, "aborted") {
			t.Fatalf("an aborted event reached the vendor: %+v", e)
		}
	}
	rep := b.clean()
	if rep.Events != committed || rep.Delivered+rep.Superseded != committed || rep.Delivered < committed/2 {
		t.Errorf("%d events were committed and %d aborted; the report: %+v", committed, aborted, rep.Summary(0, 0))
	}
	lags, err := b.admin.Lag(t.Context(), "weir."+b.name)
	if err != nil {
		t.Fatal(err)
	}
	g := lags["weir."+b.name]
	if g.Lag.Total() != 0 || len(g.Lag.Sorted()) == 0 {
		t.Errorf("kadm: lag %d on %d partitions", g.Lag.Total(), len(g.Lag.Sorted()))
	}
	b.lag0ByTool()
}

// lag0ByTool: Kafka's own tool must see lag 0 too, where there is a real broker.
func (b *box) lag0ByTool() {
	b.t.Helper()
	if !b.cluster.Real {
		return
	}
	var rows []harness.GroupRow
	for _, r := range b.cluster.Tools(b.t).DescribeGroup(b.t, "weir."+b.name) {
		if r.End == 0 {
			continue // empty, so nothing to commit
		}
		rows = append(rows, r)
		if r.Lag != 0 {
			b.t.Errorf("ConsumerGroupCommand: %+v, want lag 0", r)
		}
	}
	if len(rows) == 0 {
		b.t.Error("ConsumerGroupCommand lists no partition of the group")
	}
}
