package harness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Names of the environment variables, see the package comment.
const (
	envKafka  = "WEIR_TEST_KAFKA"
	envReal   = "WEIR_TEST_REAL"
	envJars   = "WEIR_TEST_KAFKA_JARS"
	envLogs   = "WEIR_TEST_LOGS"
	envReport = "WEIR_TEST_REPORT"
)

// A process is what all tests of one test process share.
type process struct {
	mu      sync.Mutex
	running bool
	out     io.Writer // where the report is shown
	tmp     string
	jars    func() (string, error)            // the folder with Kafka's jars
	real    func() (*Cluster, error)          // the shared real broker
	kafka   *Kafka                            // its process, if it is ours
	weirs   map[string]func() (string, error) // binaries by build options
	ran     map[string]string                 // test name -> real broker that it ran against
	names   claims
}

// shared is the one piece of package state: its lifetime is the test process, and testing offers no other place
// that all tests of a process can reach. Main fills and empties it.
var shared process

// M is what Main needs of a *testing.M.
type M interface{ Run() int }

// Main runs the tests, stops what they shared and returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
//
// If tests ran against a real broker it writes one line per broker, "integration_test: N tests ran against Apache
// Kafka 4.1.1 at host:port", to stdout and to the end of the file that WEIR_TEST_REPORT names, since go test does
// not show the stdout of a package that passes.
func Main(m M) int {
	if err := shared.open(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	code := m.Run()
	if err := shared.close(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		code = max(code, 1)
	}
	return code
}

func (p *process) open(out io.Writer) error {
	tmp, err := os.MkdirTemp("", "weir-test-")
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = out
	p.tmp = tmp
	p.running = true
	p.jars = sync.OnceValues(installJars)
	p.real = sync.OnceValues(p.startShared)
	p.weirs = make(map[string]func() (string, error))
	p.ran = make(map[string]string)
	p.names.init()
	return nil
}

// close stops the shared broker, writes the report and removes the temporary folder; of a failed run the broker's
// log is kept.
func (p *process) close(failed bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	var errs []error
	if p.kafka != nil {
		errs = append(errs, p.kafka.close(failed, os.Stderr))
		p.kafka = nil
	}
	if lines := report(p.ran); len(lines) > 0 {
		fmt.Fprint(p.out, lines)
		errs = append(errs, appendReport(os.Getenv(envReport), lines))
	}
	errs = append(errs, os.RemoveAll(p.tmp))
	return errors.Join(errs...)
}

// need ends the test if its package does not call Main: what it would start would outlive it.
func (p *process) need(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		t.Fatal("harness: the package's TestMain must be: func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }")
	}
}

// count remembers that t ran against a real broker. A test counts once, also if it used several.
func (p *process) count(t testing.TB, broker string) {
	t.Cleanup(func() {
		if t.Skipped() {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if _, ok := p.ran[t.Name()]; !ok {
			p.ran[t.Name()] = broker
		}
	})
}

// report is one line per broker, in the brokers' order.
func report(ran map[string]string) string {
	n := make(map[string]int)
	for _, broker := range ran {
		n[broker]++
	}
	var lines []string
	for broker, n := range n {
		lines = append(lines, fmt.Sprintf("integration_test: %d tests ran against %s\n", n, broker))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// appendReport adds lines to the end of the file in one write, so that processes do not mix theirs.
func appendReport(file, lines string) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("report of %s: %w", envReport, err)
	}
	_, err = f.WriteString(lines)
	return errors.Join(err, f.Close())
}

// logDir makes the folder in which a test's child processes write their output. It is removed with the test unless
// the test failed; then its path is logged.
func logDir(t testing.TB) string {
	t.Helper()
	parent := os.Getenv(envLogs)
	if parent != "" {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatalf("folder of %s: %v", envLogs, err)
		}
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == filepath.Separator || r == '*' {
			return '_'
		}
		return r
	}, t.Name())
	dir, err := os.MkdirTemp(parent, "weir-"+name[:min(len(name), 80)]+"-")
	if err != nil {
		t.Fatalf("folder for the output of child processes: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output of child processes is kept in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("remove folder of child processes: %v", err)
		}
	})
	return dir
}
