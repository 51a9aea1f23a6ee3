package embedded_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/kafka/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test: it is only reached when the test fails.
const patience = 30 * time.Second

func start(t *testing.T, o embedded.Options) *embedded.Broker {
	t.Helper()
	b, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatalf("Start(%+v): %v", o, err)
	}
	t.Cleanup(b.Close)
	return b
}

func admin(t *testing.T, b *embedded.Broker) *kafka.Admin {
	t.Helper()
	a, err := kafka.NewAdmin(kafka.Config{Brokers: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func TestMakesTopicsOnLoopback(t *testing.T) {
	b := start(t, embedded.Options{Topics: map[string]int32{"one": 1, "six": 6}})
	host, _, err := net.SplitHostPort(b.Addr())
	if err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("Addr() = %s (%v), want host and port on loopback: anybody may write to it", b.Addr(), err)
	}
	infos, err := admin(t, b).Topics(t.Context(), "one", "six", "none")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int32{"one": 1, "six": 6, "none": 0} {
		if got := infos[name].Partitions; got != want {
			t.Errorf("topic %s has %d partitions, want %d", name, got, want)
		}
	}
}

func TestKeepsEverythingInItsFolder(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o := embedded.Options{Dir: t.TempDir() + "/broker", Topics: map[string]int32{"orders": 2}}
	b := start(t, o)
	p, err := kafka.NewProducer(kafka.Config{Brokers: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	placed, err := p.Produce(ctx, []kafka.Out{{Topic: "orders", Partition: 1, Key: []byte("k"), Value: []byte("v1")}, {Topic: "orders", Partition: 1, Key: []byte("k"), Value: []byte("v2")}})
	p.Close()
	if err != nil {
		t.Fatal(err)
	}
	before, err := admin(t, b).Topics(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	b.Close()

	// On the port that it had, as a config that names it needs it.
	_, port, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if o.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	o.Topics["orders"] = 5 // it exists: it stays as it is
	again := start(t, o)
	if again.Addr() != b.Addr() {
		t.Errorf("reopened at %s, want %s", again.Addr(), b.Addr())
	}
	after, err := admin(t, again).Topics(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if after["orders"].ID != before["orders"].ID || after["orders"].Partitions != 2 {
		t.Errorf("reopened topic: %+v, want %+v", after["orders"], before["orders"])
	}
	r, err := kafka.NewReader(kafka.Config{Brokers: []string{again.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, want := range []string{"v1", "v2"} {
		rec, err := r.ReadAt(ctx, "orders", 1, placed[i].Offset)
		if err != nil || string(rec.Value) != want {
			t.Errorf("record %d of the reopened broker: %+v, %v; want value %s", i, rec, err, want)
		}
	}
}

func TestRefusesWhatCannotBe(t *testing.T) {
	taken := start(t, embedded.Options{})
	_, text, err := net.SplitHostPort(taken.Addr())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]embedded.Options{
		"address already in use": {Port: port},
		"0 partitions":           {Topics: map[string]int32{"t": 0}},
		"topic":                  {Topics: map[string]int32{"a b": 1}},
		"folder":                 {Dir: "embedded.go/below-a-file"},
	} {
		b, err := embedded.Start(t.Context(), o)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start(%+v): error %v, want one that names %q", o, err, want)
		}
	}
}
