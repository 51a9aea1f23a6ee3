package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// toolMax bounds one run of a command line tool, which takes about a second.
const toolMax = time.Minute

// Tools are Apache Kafka's own command line tools, for checks from outside of our code and of our client library.
// Each call starts a JVM, about a second of CPU time.
type Tools struct {
	java string
	jars string
	addr string
}

const groupCommand = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"

// A GroupRow is one line of the description of a consumer group. -1 stands for what the tool does not know.
type GroupRow struct {
	Group     string
	Topic     string
	Partition int32
	Current   int64 // committed offset
	End       int64 // log end offset
	Lag       int64
	Consumer  string // member id, "" without a member
	Client    string
}

// A Reset says where --reset-offsets puts a group.
type Reset []string

// The resets that tests use; ToOffset is the third.
var (
	ToEarliest = Reset{"--to-earliest"}
	ToLatest   = Reset{"--to-latest"}
)

// ToOffset resets to one offset.
func ToOffset(off int64) Reset { return Reset{"--to-offset", strconv.FormatInt(off, 10)} }

// Topics runs TopicCommand (kafka-topics.sh) with the arguments and returns what it printed.
func (k *Tools) Topics(t testing.TB, args ...string) string {
	t.Helper()
	return k.run(t, "org.apache.kafka.tools.TopicCommand", args...)
}

// Groups runs ConsumerGroupCommand (kafka-consumer-groups.sh) with the arguments and returns what it printed.
func (k *Tools) Groups(t testing.TB, args ...string) string {
	t.Helper()
	return k.run(t, groupCommand, args...)
}

// DescribeGroup describes a consumer group, one row per partition. A group that does not exist has no rows; a
// broker soon forgets one that has neither members nor offsets.
func (k *Tools) DescribeGroup(t testing.TB, group string) []GroupRow {
	t.Helper()
	out, err := k.Run(t.Context(), groupCommand, "--group", group, "--describe", "--offsets")
	if err != nil && strings.Contains(err.Error(), "GroupIdNotFoundException") {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	rows, err := parseGroup(out)
	if err != nil {
		t.Fatalf("describe group %s: %v", group, err)
	}
	return rows
}

// ResetOffsets moves the committed offsets of a group that has no members, with empty metadata, as an operator
// does. Without topics it moves all of the group's topics.
func (k *Tools) ResetOffsets(t testing.TB, group string, to Reset, topics ...string) {
	t.Helper()
	args := append([]string{"--group", group, "--reset-offsets", "--execute"}, to...)
	if len(topics) == 0 {
		args = append(args, "--all-topics")
	}
	for _, topic := range topics {
		args = append(args, "--topic", topic)
	}
	k.Groups(t, args...)
}

// DeleteOffsets removes a group's committed offsets of a topic that no member reads.
func (k *Tools) DeleteOffsets(t testing.TB, group, topic string) {
	t.Helper()
	if out := k.Groups(t, "--group", group, "--delete-offsets", "--topic", topic); !strings.Contains(out, "Request succeeded") {
		t.Fatalf("delete offsets of group %s in %s: %s", group, topic, out)
	}
}

// EndOffsets runs GetOffsetShell: the log end offset of each partition of a topic.
func (k *Tools) EndOffsets(t testing.TB, topic string) map[int32]int64 {
	t.Helper()
	offs, err := parseOffsets(k.run(t, "org.apache.kafka.tools.GetOffsetShell", "--topic", topic, "--time", "latest"))
	if err != nil {
		t.Fatalf("offsets of topic %s: %v", topic, err)
	}
	return offs
}

func (k *Tools) run(t testing.TB, class string, args ...string) string {
	t.Helper()
	out, err := k.Run(t.Context(), class, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Run runs the main method of a class of Kafka's jars with --bootstrap-server and the arguments, at most one
// minute, and returns its stdout. A tool that printed an error is an error, also if its exit code is 0, which it
// is with ConsumerGroupCommand.
func (k *Tools) Run(ctx context.Context, class string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolMax)
	defer cancel()
	return runJava(ctx, k.java, k.jars, class, append([]string{"--bootstrap-server", k.addr}, args...)...)
}

func runJava(ctx context.Context, java, jars, class string, args ...string) (string, error) {
	args = append([]string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", filepath.Join(jars, "*"), class}, args...)
	cmd := exec.CommandContext(ctx, java, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = childAttr()
	cmd.WaitDelay = 10 * time.Second
	runtime.LockOSThread() // see startChild
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil && failed(stdout.String()) {
		err = errors.New("it printed an error")
	}
	if err != nil {
		name := class[strings.LastIndexByte(class, '.')+1:]
		return "", fmt.Errorf("run Kafka's %s: %w\n%s%s", name, errors.Join(err, context.Cause(ctx)), stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func failed(stdout string) bool {
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(line, "Error") || strings.Contains(line, " Error: ") {
			return true
		}
	}
	return false
}

// parseGroup reads the table that ConsumerGroupCommand prints; columns are found by their names, since versions
// add some.
func parseGroup(out string) ([]GroupRow, error) {
	var head map[string]int
	width := 0 // columns of the head: more than head has, if a name stands there twice
	var rows []GroupRow
	for line := range strings.Lines(out) {
		cols := strings.Fields(line)
		if len(cols) == 0 {
			continue
		}
		if cols[0] == "GROUP" {
			head, width = make(map[string]int), len(cols)
			for i, c := range cols {
				head[c] = i
			}
			for _, c := range []string{"TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"} {
				if _, ok := head[c]; !ok {
					return nil, fmt.Errorf("no column %s in %q", c, line)
				}
			}
			continue
		}
		if head == nil {
			continue // remarks before the table
		}
		if len(cols) < width {
			return nil, fmt.Errorf("%d columns instead of %d in %q", len(cols), width, line)
		}
		text := func(name string) string {
			i, ok := head[name]
			if !ok || cols[i] == "-" {
				return ""
			}
			return cols[i]
		}
		var err error
		number := func(name string, bits int) int64 {
			s := text(name)
			if s == "" {
				return -1
			}
			n, e := strconv.ParseInt(s, 10, bits)
			if e != nil {
				err = errors.Join(err, fmt.Errorf("column %s of %q: %w", name, line, e))
			}
			return n
		}
		row := GroupRow{
			Group: text("GROUP"), Topic: text("TOPIC"), Partition: int32(number("PARTITION", 32)),
			Current: number("CURRENT-OFFSET", 64), End: number("LOG-END-OFFSET", 64), Lag: number("LAG", 64),
			Consumer: text("CONSUMER-ID"), Client: text("CLIENT-ID"),
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// parseOffsets reads the lines topic:partition:offset of GetOffsetShell.
func parseOffsets(out string) (map[int32]int64, error) {
	offs := make(map[int32]int64)
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		cols := strings.Split(line, ":")
		if len(cols) != 3 {
			return nil, fmt.Errorf("line %q is not topic:partition:offset", line)
		}
		p, err := strconv.ParseInt(cols[1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("partition in %q: %w", line, err)
		}
		off, err := strconv.ParseInt(cols[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("offset in %q: %w", line, err)
		}
		offs[int32(p)] = off
	}
	return offs, nil
}
