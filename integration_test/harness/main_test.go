package harness

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childMode names what this binary does when it is started as a child of a test. It must not begin with WEIR_,
// which children do not see.
const childMode = "HARNESS_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		os.Exit(childMain(mode, os.Args[1:]))
	}
	os.Exit(Main(m))
}

// childMain is a stand-in for the weir binary.
func childMain(mode string, args []string) int {
	switch mode {
	case "print": // each argument as a line, on stdout and stderr in turn
		for i, a := range args {
			if i%2 == 0 {
				fmt.Println(a)
			} else {
				fmt.Fprintln(os.Stderr, a)
			}
		}
		return 3
	case "env":
		for _, kv := range os.Environ() {
			fmt.Println(kv)
		}
		return 0
	case "serve": // /readyz, until SIGTERM
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
		go func() { _ = http.Serve(l, nil) }()
		fmt.Printf("listening on http://%s\n", l.Addr())
		<-stop
		fmt.Println("drained")
		return 0
	case "stubborn": // does not end on SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		wait()
	case "parent": // starts a child that holds a connection to the address, and waits for ever
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), childMode+"=connect")
		if _, err := startChild(cmd); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		wait()
	case "connect":
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return 1
		}
		fmt.Fprintln(c, os.Getpid())
		_, _ = bufio.NewReader(c).ReadString('\n') // until the other side or the process ends
		return 0
	}
	fmt.Fprintln(os.Stderr, "no such mode:", mode)
	return 2
}

// wait waits for ever. An empty select is a deadlock to a program without cgo in which nothing else may happen, and ends it.
func wait() {
	for {
		time.Sleep(time.Hour)
	}
}

// self is this test binary in place of weir.
func self(t *testing.T, mode string) *Weir {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := newWeir(t, exe)
	w.Env = []string{childMode + "=" + mode}
	return w
}

func TestReportHasOneLinePerBrokerAndTestsCountOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report")
	t.Setenv(envReport, file)
	var out strings.Builder
	for range 2 { // two test processes, one report
		var p process
		if err := p.open(&out); err != nil {
			t.Fatal(err)
		}
		t.Run("one", func(t *testing.T) {
			p.count(t, "Apache Kafka 4.1.1 at 127.0.0.1:1")
			p.count(t, "Apache Kafka 4.1.1 at 127.0.0.1:1")
		})
		t.Run("two", func(t *testing.T) { p.count(t, "Apache Kafka 4.1.1 at 127.0.0.1:1") })
		if err := p.close(false); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(p.tmp); !os.IsNotExist(err) {
			t.Errorf("temporary folder after close: %v, want it gone", err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("integration_test: 2 tests ran against Apache Kafka 4.1.1 at 127.0.0.1:1\n", 2)
	if string(got) != want || out.String() != want {
		t.Errorf("report:\n%sshown:\n%swant both:\n%s", got, out.String(), want)
	}
}

func TestReportIsEmptyWithoutARealBroker(t *testing.T) {
	if got := report(nil); got != "" {
		t.Errorf("report of no tests: %q, want none", got)
	}
}

func TestJarsOfTheEnvironmentMustBeThere(t *testing.T) {
	t.Setenv(envJars, t.TempDir())
	if dir, err := installJars(); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("jars in an empty folder %s: error %v, want one that names the folder", dir, err)
	}
}
