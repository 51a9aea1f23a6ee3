// Package kafka is the one place that speaks to Kafka: the group consumer with Weir's own rule of where a
// partition starts, the producer of parked, dead-lettered and published records, a reader that fetches single
// records by position, and the administration of Weir's topics. No other shipped package imports the Kafka client.
//
// The model. A [Consumer] is one member of the group weir.<connector>. The group gives it partitions; for each the
// consumer learns what Kafka knows (topic id, committed offset with metadata, log start, last stable offset) and
// asks its [Handler], which decides with [Decide] and the checkpoint store where to start, or to hold. Records go to
// the handler in offset order per partition, control records included, so that the low-water mark can reach the
// end of the log (design section 3). Nothing is committed but what the handler commits.
//
// A partition is in one of these states:
//
//	assigning  the group gave it, Kafka or the handler is still being asked; not fetched
//	held       not fetched until [Consumer.Start]: the handler said so, or it is in trouble
//	running    fetched, unless the handler has paused it
//	revoking   Handler.Revoke runs: it may still be committed, nothing else
//	gone       revoked or lost: its records are dropped, its commits refused
//
// Promise 1 (no loss): there is no automatic commit and no offset reset; the handler commits its mark. Promise 4
// (one owner): a commit is checked and sent under one rule, see [Consumer.Commit]: after Handler.Revoke has returned
// or Handler.Lost was called no commit of the partition is sent or still under way. Promise 6 (bounded): the client
// buffers at most one fetch per broker (Config.FetchBytesMax each), a poll takes at most Config.PollRecordsMax
// records, and a pause stops the fetch of one partition, never the poll loop. Promise 9: no record content is in any
// log line or error text of this package.
//
// What is trusted: the broker's generation check (a commit of an old generation is refused), and topic ids (brokers
// older than 2.8 have none: then a recreated topic is seen only by its offsets).
//
// How it fails. A broker that is away breaks nothing: the client retries, [Handler.Changed] is told once when it
// starts and once when it ends. If the group's coordinator refuses a heartbeat's connection and no other broker takes
// it over, the partitions are lost and come again: that is [Handler.Lost], then [Handler.Assign]. An offset that is out of range, a truncated log or a recreated topic hold the
// partition and are told through [Handler.Trouble]. Only a handler's error stops the consumer.
package kafka
