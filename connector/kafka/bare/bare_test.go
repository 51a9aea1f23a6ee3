package bare

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/kafka/embedded"
)

func TestReadsEverythingFromTheStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b, err := embedded.Start(ctx, embedded.Options{Topics: map[string]int32{"things": 3}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	p, err := kafka.NewProducer(kafka.Config{Brokers: []string{b.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var want, got []string
	for i := range 50 {
		v := fmt.Sprintf("v%02d", i)
		want = append(want, v)
		if _, err := p.Produce(ctx, []kafka.Out{{Topic: "things", Partition: int32(i % 3), Key: []byte(v), Value: []byte(v)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := Consume(ctx, []string{b.Addr()}, "g", "things", func(v []byte) {
		if got = append(got, string(v)); len(got) == len(want) {
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("read %q, want each once of %q", got, want)
	}
}
