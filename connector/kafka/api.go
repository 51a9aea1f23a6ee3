package kafka

import (
	"context"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

// TP is a topic and a partition index.
type TP struct {
	Topic     string
	Partition int32
}

// A Record is one consumed record. Control records (transaction markers) have Control set and no content.
type Record struct {
	schema.Record
	LeaderEpoch int32
	Control     bool
}

// Committed is a consumer group's committed offset of a partition.
type Committed struct {
	OK          bool // false: none
	Offset      int64
	LeaderEpoch int32
	Metadata    string
}

// An Assignment is a partition that the group gave us, with what Kafka knows of it.
type Assignment struct {
	TP
	TopicID   checkpoint.TopicID
	Committed Committed
	LogStart  int64 // earliest offset
	End       int64 // offset after the last stable one
}

// A Start says where the fetch of an assigned partition begins. Hold: do not fetch it (its state says why).
type Start struct {
	Offset int64
	Hold   bool
}

// A Batch is what one poll returned for one partition, in offset order.
type Batch struct {
	TP
	Records []*Record
}

// A Handler receives what the consumer group does. Its methods are called one at a time, on the consumer's
// goroutines; Records must not block.
type Handler interface {
	// Assign decides where each partition starts (design section 3). An error stops the consumer.
	Assign(ctx context.Context, as []Assignment) (map[TP]Start, error)
	// Records takes a poll's records; it keeps them.
	Records(bs []Batch)
	// Revoke is called before the partitions are given up: it drains, settles and commits (Consumer.Commit)
	// before it returns, within the ctx.
	Revoke(ctx context.Context, tps []TP)
	// Lost is called when the partitions are already somebody else's: no commit may follow.
	Lost(tps []TP)
	// Changed tells of a condition of the environment: err nil = Kafka answers again.
	Changed(err error)
	// Trouble tells that a running partition cannot go on. It is held: nothing of it is delivered until
	// Consumer.Start. err is an *OutOfRangeError, a *TopicChangedError, or what else the fetch met. After a
	// *TopicChangedError with a new id Lost follows for the topic's partitions, then Assign with the new id.
	Trouble(tp TP, err error)
}

// A Commit is what is committed for a partition.
type Commit struct {
	Offset      int64
	LeaderEpoch int32
	Metadata    string
}

// End is where a partition's log stands, for lag.
type End struct {
	TP
	LogStart int64
	End      int64
	At       time.Time
}
