package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weirsync/weir/checkpoint"
)

// HeaderBytesMax is the room that a parked or dead topic's max.message.bytes leaves for Weir's headers (design
// section 7).
const HeaderBytesMax = 65_536

// kafkaMessageBytesDefault is Kafka's default max.message.bytes, taken where a source's cannot be read.
const kafkaMessageBytesDefault = 1_048_588

// GroupName, ParkedTopic, DeadTopic and FactsTopic are the names of design section 17.
func GroupName(connector string) string   { return "weir." + connector }
func ParkedTopic(connector string) string { return "weir." + connector + ".parked" }
func DeadTopic(connector string) string   { return "weir." + connector + ".dead" }
func FactsTopic(connector string) string  { return "weir." + connector + ".facts" }

// An Admin creates and checks topics and reads what the cluster says of itself. Safe for concurrent use.
type Admin struct {
	cfg Config
	cl  *kgo.Client
	adm *kadm.Client
}

// NewAdmin makes an admin. It connects with the first call. Errors are *ConfigError or the client's.
func NewAdmin(cfg Config) (*Admin, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	cl, err := kgo.NewClient(cfg.clientOpts()...)
	if err != nil {
		return nil, fmt.Errorf("make admin client: %w", err)
	}
	return &Admin{cfg: cfg, cl: cl, adm: kadm.NewClient(cl)}, nil
}

// Close ends the admin.
func (a *Admin) Close() { a.cl.Close() }

func (a *Admin) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.cfg.RequestTimeout)
}

// A Cluster is what a cluster says of itself.
type Cluster struct {
	ID         string
	Version    string // best guess from what the brokers speak, such as "v4.1"; "" if it cannot be learned
	Controller int32  // -1: none just now
	Brokers    []Broker
}

// A Broker is one of a cluster.
type Broker struct {
	ID   int32
	Addr string // host:port
	Rack string // "" if none
}

// Describe asks the cluster who it is. It is also the test of whether Kafka can be reached.
func (a *Admin) Describe(ctx context.Context) (Cluster, error) {
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	// The admin client would answer from its memory, also when Kafka is gone.
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none; nil would mean all
	m, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return Cluster{}, fmt.Errorf("describe the cluster at %s: %w", strings.Join(a.cfg.Brokers, ","), err)
	}
	c := Cluster{Controller: m.ControllerID}
	if m.ClusterID != nil {
		c.ID = *m.ClusterID
	}
	for _, b := range m.Brokers {
		br := Broker{ID: b.NodeID, Addr: fmt.Sprintf("%s:%d", b.Host, b.Port)}
		if b.Rack != nil {
			br.Rack = *b.Rack
		}
		c.Brokers = append(c.Brokers, br)
	}
	slices.SortFunc(c.Brokers, func(x, y Broker) int { return cmp.Compare(x.ID, y.ID) })
	if vs, err := a.adm.ApiVersions(ctx); err == nil {
		for _, v := range vs.Sorted() {
			if v.Err == nil {
				c.Version = v.VersionGuess()
				break
			}
		}
	}
	return c, nil
}

// A TopicInfo is one topic with the settings that matter to Weir.
type TopicInfo struct {
	Name       string
	ID         checkpoint.TopicID
	Exists     bool
	Partitions int32
	Replicas   int // of partition 0
	// ConfigErr is why the fields below are not known.
	ConfigErr       error
	CleanupPolicy   string // delete, compact or both with a comma
	RetentionMs     int64  // -1: for ever
	RetentionBytes  int64  // -1: any amount
	MessageBytesMax int64  // max.message.bytes
	MinISR          int
}

// Compacted reports whether the topic keeps only the newest record of a key.
func (t TopicInfo) Compacted() bool { return strings.Contains(t.CleanupPolicy, "compact") }

// Topics describes topics; each named one is in the answer, those that do not exist with Exists unset.
func (a *Admin) Topics(ctx context.Context, names ...string) (map[string]TopicInfo, error) {
	if len(names) == 0 {
		return map[string]TopicInfo{}, nil
	}
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	m, err := a.adm.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topics %s: %w", strings.Join(names, ", "), err)
	}
	out := make(map[string]TopicInfo, len(names))
	var exist []string
	for _, n := range names {
		t := TopicInfo{Name: n}
		d, ok := m.Topics[n]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		case d.Err != nil:
			return nil, fmt.Errorf("describe topic %s: %w", n, d.Err)
		default:
			t.Exists, t.ID, t.Partitions = true, checkpoint.TopicID(d.ID), int32(len(d.Partitions))
			t.Replicas = len(d.Partitions[0].Replicas)
			exist = append(exist, n)
		}
		out[n] = t
	}
	if len(exist) == 0 {
		return out, nil
	}
	cs, err := a.adm.DescribeTopicConfigs(ctx, exist...)
	for _, n := range exist {
		t := out[n]
		t.RetentionMs, t.RetentionBytes = -1, -1
		rc, onErr := cs.On(n, nil)
		if t.ConfigErr = cmp.Or(rc.Err, err, onErr); t.ConfigErr == nil {
			for _, c := range rc.Configs {
				v := c.MaybeValue()
				switch c.Key {
				case "cleanup.policy":
					t.CleanupPolicy = v
				case "retention.ms":
					t.RetentionMs = number(v, -1)
				case "retention.bytes":
					t.RetentionBytes = number(v, -1)
				case "max.message.bytes":
					t.MessageBytesMax = number(v, 0)
				case "min.insync.replicas":
					t.MinISR = int(number(v, 0))
				}
			}
		}
		out[n] = t
	}
	return out, nil
}

func number(s string, unknown int64) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return unknown
	}
	return n
}

// A TopicPlan says which topics of a connector to make.
type TopicPlan struct {
	Connector string
	Sources   []string // the topics that it consumes
	// Replication of new topics. 0 or -1: the cluster's default; never more than there are brokers.
	Replication int16
	// MinISR of new topics, min.insync.replicas; 0: the cluster's default.
	MinISR int
	// Facts also makes weir.<connector>.facts: what the vendor reports.
	Facts bool
}

// An Ensured is what EnsureTopics did to one topic.
type Ensured struct {
	Topic   string
	Created bool
	// Grown and Raised: an existing topic got partitions, or a larger max.message.bytes, to match its sources.
	Grown, Raised bool
	Partitions    int32
	// MessageBytesMax is the topic's max.message.bytes, for Config.TopicBatchBytesMax.
	MessageBytesMax int64
}

// EnsureTopics makes weir.<connector>.parked and .dead as design section 7 wants them: as many partitions as the
// source with the most, so that a copy has its origin's partition number, cleanup.policy=delete, retention.ms=-1,
// max.message.bytes as the largest source's plus HeaderBytesMax. One that exists gets missing partitions and a too
// small max.message.bytes raised; its retention is left alone (CheckTopics refuses one that can expire). If the plan
// says so it makes .facts too, an ordinary stream: its retention is the cluster's default. Safe to call from many
// processes at once.
func (a *Admin) EnsureTopics(ctx context.Context, p TopicPlan) ([]Ensured, error) {
	names := []string{ParkedTopic(p.Connector), DeadTopic(p.Connector)}
	if p.Facts {
		names = append(names, FactsTopic(p.Connector))
	}
	for _, n := range names {
		if err := checkTopicName(n); err != nil {
			return nil, fmt.Errorf("make topics of connector %s: %w", p.Connector, err)
		}
	}
	infos, err := a.Topics(ctx, append(slices.Clone(names), p.Sources...)...)
	if err != nil {
		return nil, err
	}
	partitions, bytes, err := sourceShape(infos, p.Sources)
	if err != nil {
		return nil, fmt.Errorf("make topics of connector %s: %w", p.Connector, err)
	}
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	replication := int16(-1)
	if p.Replication > 0 {
		m, err := a.adm.BrokerMetadata(ctx)
		if err != nil {
			return nil, fmt.Errorf("count brokers: %w", err)
		}
		replication = min(p.Replication, int16(min(len(m.Brokers), 1<<14)))
	}
	configs := map[string]*string{
		"cleanup.policy":    kadm.StringPtr("delete"),
		"retention.ms":      kadm.StringPtr("-1"),
		"max.message.bytes": kadm.StringPtr(strconv.FormatInt(bytes, 10)),
	}
	if p.MinISR > 0 {
		configs["min.insync.replicas"] = kadm.StringPtr(strconv.Itoa(p.MinISR))
	}
	var out []Ensured
	for _, n := range names {
		e := Ensured{Topic: n, Partitions: partitions, MessageBytesMax: bytes}
		if !infos[n].Exists {
			configs := maps.Clone(configs)
			if p.Facts && n == FactsTopic(p.Connector) {
				delete(configs, "retention.ms")
			}
			_, err := a.adm.CreateTopic(ctx, partitions, replication, configs, n)
			if err == nil {
				e.Created = true
				out = append(out, e)
				continue
			}
			if !errors.Is(err, kerr.TopicAlreadyExists) {
				return out, fmt.Errorf("create topic %s: %w", n, err)
			}
			// Another process was quicker.
			again, err := a.Topics(ctx, n)
			if err != nil {
				return out, err
			}
			infos[n] = again[n]
		}
		if err := a.adapt(ctx, infos[n], &e, partitions, bytes); err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, a.awaitTopics(ctx, out)
}

// awaitTopics waits until the brokers tell of new topics and partitions: they answer the creation before that.
func (a *Admin) awaitTopics(ctx context.Context, es []Ensured) error {
	for _, e := range es {
		for e.Created || e.Grown {
			m, err := topicsMeta(ctx, a.cl, []string{e.Topic})
			if err != nil {
				return fmt.Errorf("wait for topic %s: %w", e.Topic, err)
			}
			if m[e.Topic].err == nil && m[e.Topic].partitions >= int(e.Partitions) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for topic %s: %w", e.Topic, ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// adapt grows an existing topic to what its sources need.
func (a *Admin) adapt(ctx context.Context, t TopicInfo, e *Ensured, partitions int32, bytes int64) error {
	if t.Partitions < partitions {
		rs, err := a.adm.UpdatePartitions(ctx, int(partitions), t.Name)
		if err == nil {
			err = rs.Error()
		}
		if err != nil {
			return fmt.Errorf("add partitions to topic %s (has %d, needs %d): %w", t.Name, t.Partitions, partitions, err)
		}
		e.Grown = true
	}
	e.Partitions = max(t.Partitions, partitions)
	if t.ConfigErr == nil && t.MessageBytesMax < bytes {
		rs, err := a.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{
			Op: kadm.SetConfig, Name: "max.message.bytes", Value: kadm.StringPtr(strconv.FormatInt(bytes, 10)),
		}}, t.Name)
		if err == nil {
			for _, r := range rs {
				err = cmp.Or(err, r.Err)
			}
		}
		if err != nil {
			return fmt.Errorf("raise max.message.bytes of topic %s from %d to %d: %w", t.Name, t.MessageBytesMax, bytes, err)
		}
		e.Raised = true
	}
	e.MessageBytesMax = max(t.MessageBytesMax, bytes)
	return nil
}

// sourceShape is what parked and dead topics need: the most partitions, the largest message plus headers.
func sourceShape(infos map[string]TopicInfo, sources []string) (partitions int32, bytes int64, err error) {
	for _, s := range sources {
		t := infos[s]
		if !t.Exists {
			return 0, 0, fmt.Errorf("source topic %s: %w", s, ErrNoTopic)
		}
		partitions = max(partitions, t.Partitions)
		n := t.MessageBytesMax
		if n <= 0 {
			n = kafkaMessageBytesDefault
		}
		bytes = max(bytes, n)
	}
	if partitions == 0 {
		return 0, 0, errors.New("no source topics")
	}
	return partitions, min(bytes+HeaderBytesMax, 1<<31-1), nil
}

// FindingCode is the closed set of what CheckTopics finds.
type FindingCode string

// The findings.
const (
	FindSourceMissing   FindingCode = "source_missing"
	FindSourceCompacted FindingCode = "source_compacted" // wrong for every routes: not each event survives
	FindTopicMissing    FindingCode = "topic_missing"    // parked or dead: EnsureTopics makes it
	FindExpires         FindingCode = "topic_expires"    // parked or dead records could be deleted by retention
	FindCompacted       FindingCode = "topic_compacted"  // parked or dead records could be compacted away
	FindPartitions      FindingCode = "too_few_partitions"
	FindMessageBytes    FindingCode = "message_bytes_too_small"
	FindMinISR          FindingCode = "min_isr_above_replicas" // no record could ever be written
	FindUnreadable      FindingCode = "config_unreadable"      // we may not see the topic's settings
)

// A Finding is one thing that is wrong with a topic.
type Finding struct {
	Topic string
	Code  FindingCode
	// Refuse: do not run like this. Otherwise the caller decides (a compacted source suits latest routes) or it
	// heals by EnsureTopics.
	Refuse bool
	Text   string // what is wrong and what to do
}

// CheckTopics looks at a connector's sources and its parked and dead topics. The error is Kafka's.
func (a *Admin) CheckTopics(ctx context.Context, connector string, sources []string) ([]Finding, error) {
	own := []string{ParkedTopic(connector), DeadTopic(connector)}
	infos, err := a.Topics(ctx, append(slices.Clone(own), sources...)...)
	if err != nil {
		return nil, err
	}
	return checkTopics(infos, own, sources), nil
}

func checkTopics(infos map[string]TopicInfo, own, sources []string) []Finding {
	var fs []Finding
	add := func(topic string, code FindingCode, refuse bool, format string, args ...any) {
		fs = append(fs, Finding{topic, code, refuse, "topic " + topic + ": " + fmt.Sprintf(format, args...)})
	}
	for _, s := range sources {
		switch t := infos[s]; {
		case !t.Exists:
			add(s, FindSourceMissing, true, "it does not exist, or we may not see it; create it or correct the config")
		case t.ConfigErr != nil:
			add(s, FindUnreadable, false, "its settings cannot be read (allow DESCRIBE_CONFIGS): %v", t.ConfigErr)
		case t.Compacted():
			add(s, FindSourceCompacted, false, "cleanup.policy is %s; only routes with semantics latest may read it", t.CleanupPolicy)
		}
	}
	partitions, bytes, shapeErr := sourceShape(infos, sources)
	for _, o := range own {
		t := infos[o]
		switch {
		case !t.Exists:
			add(o, FindTopicMissing, false, "it does not exist yet")
			continue
		case t.ConfigErr != nil:
			add(o, FindUnreadable, false, "its settings cannot be read (allow DESCRIBE_CONFIGS): %v", t.ConfigErr)
			continue
		}
		if t.Compacted() {
			add(o, FindCompacted, true, "cleanup.policy is %s, so records of one key replace each other; set cleanup.policy=delete", t.CleanupPolicy)
		}
		if t.RetentionMs != -1 {
			add(o, FindExpires, true, "retention.ms is %d, so records expire; set retention.ms=-1", t.RetentionMs)
		}
		if t.RetentionBytes != -1 {
			add(o, FindExpires, true, "retention.bytes is %d, so records expire; set retention.bytes=-1", t.RetentionBytes)
		}
		if shapeErr == nil && t.Partitions < partitions {
			add(o, FindPartitions, false, "it has %d partitions, the sources have up to %d", t.Partitions, partitions)
		}
		if shapeErr == nil && t.MessageBytesMax < bytes {
			add(o, FindMessageBytes, false, "max.message.bytes is %d, less than the %d that the largest record with headers needs", t.MessageBytesMax, bytes)
		}
		if t.MinISR > t.Replicas && t.Replicas > 0 {
			add(o, FindMinISR, true, "min.insync.replicas is %d with %d replicas, so nothing can be written", t.MinISR, t.Replicas)
		}
	}
	return fs
}

// A Lag is where a group stands on one partition.
type Lag struct {
	TP
	Committed Committed
	LogStart  int64
	End       int64 // last stable offset
}

// Lag is the number of offsets between the commit and the end, or the log's start and the end without a commit.
func (l Lag) Lag() int64 {
	from := l.LogStart
	if l.Committed.OK {
		from = max(l.Committed.Offset, l.LogStart)
	}
	return max(l.End-from, 0)
}

// GroupLag reads a group's commits, with metadata, and the ranges of all partitions of the topics.
func (a *Admin) GroupLag(ctx context.Context, group string, topics ...string) (map[TP]Lag, error) {
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	meta, err := topicsMeta(ctx, a.cl, topics)
	if err != nil {
		return nil, fmt.Errorf("lag of group %s: %w", group, err)
	}
	var tps []TP
	for _, t := range topics {
		if err := meta[t].err; err != nil {
			return nil, fmt.Errorf("lag of group %s: topic %s: %w", group, t, err)
		}
		for p := range meta[t].partitions {
			tps = append(tps, TP{t, int32(p)})
		}
	}
	ends, err := readEnds(ctx, a.cl, tps)
	if err != nil {
		return nil, fmt.Errorf("lag of group %s: %w", group, err)
	}
	commits, err := a.adm.FetchOffsetsForTopics(ctx, group, topics...)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("lag of group %s: %w", group, err)
	}
	out := make(map[TP]Lag, len(tps))
	for _, tp := range tps {
		l := Lag{TP: tp, LogStart: ends[tp].LogStart, End: ends[tp].End}
		if o, ok := commits.Lookup(tp.Topic, tp.Partition); ok {
			if o.Err != nil {
				return nil, fmt.Errorf("lag of group %s: %v: %w", group, tp, o.Err)
			}
			if o.At >= 0 {
				l.Committed = Committed{OK: true, Offset: o.At, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata}
			}
		}
		out[tp] = l
	}
	return out, nil
}

// Trim deletes the records below an offset, as for a parked topic below its oldest open entry. An offset that is
// deleted already is no error.
func (a *Admin) Trim(ctx context.Context, below map[TP]int64) error {
	if len(below) == 0 {
		return nil
	}
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	starts, err := listOffsets(ctx, a.cl, slices.Collect(maps.Keys(below)), listStart)
	if err != nil {
		return fmt.Errorf("trim %d partitions: %w", len(below), err)
	}
	os := make(kadm.Offsets)
	for tp, at := range below {
		if err := starts[tp].err; err != nil {
			return fmt.Errorf("trim %v below %d: %w", tp, at, err)
		}
		if at > starts[tp].offset {
			os.AddOffset(tp.Topic, tp.Partition, at, -1)
		}
	}
	if len(os) == 0 {
		return nil
	}
	rs, err := a.adm.DeleteRecords(ctx, os)
	if err != nil {
		return fmt.Errorf("trim %d partitions: %w", len(below), err)
	}
	var errs []error
	rs.Each(func(r kadm.DeleteRecordsResponse) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("trim %s/%d below %d: %w", r.Topic, r.Partition, below[TP{r.Topic, r.Partition}], r.Err))
		}
	})
	return errors.Join(errs...)
}

// Ends reads log start and last stable offset of partitions, as Consumer.Ends does.
func (a *Admin) Ends(ctx context.Context, tps ...TP) (map[TP]End, error) {
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	return readEnds(ctx, a.cl, tps)
}

// OffsetsAt finds the first offset at or after a time, as Consumer.OffsetsAt does.
func (a *Admin) OffsetsAt(ctx context.Context, at time.Time, tps ...TP) (map[TP]int64, error) {
	ctx, cancel := a.timeout(ctx)
	defer cancel()
	return offsetsAt(ctx, a.cl, tps, at)
}
