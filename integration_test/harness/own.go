package harness

import (
	"net"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// An OwnBroker is a broker of one test that goes away and comes back on the same port and data: a real Apache Kafka with
// WEIR_TEST_REAL=1, else kfake in this process. Its methods are not for concurrent use.
type OwnBroker struct {
	Cluster *Cluster

	kafka *Kafka // nil: kfake
	port  int
	dir   string
	froze *freezer
}

// StartOwn starts a broker of the test's own, which ends with the test.
func StartOwn(t testing.TB) *OwnBroker {
	t.Helper()
	if os.Getenv(envReal) == "1" {
		k := StartKafka(t, KafkaConfig{})
		return &OwnBroker{Cluster: k.Cluster(), kafka: k}
	}
	shared.need(t)
	b := &OwnBroker{port: Port(t), dir: t.TempDir(), froze: new(freezer)}
	b.Cluster = &Cluster{Addr: loopback(b.port), Kind: "kfake", names: new(claims), private: true}
	b.Cluster.names.init()
	b.Start(t)
	t.Cleanup(func() {
		b.froze.set(false)
		b.Cluster.fake.Close()
	})
	return b
}

// Kill ends the broker: a real one as a crash does, with SIGKILL.
func (b *OwnBroker) Kill(t testing.TB) {
	t.Helper()
	if b.kafka != nil {
		b.kafka.Kill(t)
		return
	}
	b.Cluster.fake.Close()
}

// Start starts it again after Kill and waits until it answers.
func (b *OwnBroker) Start(t testing.TB) {
	t.Helper()
	if b.kafka != nil {
		b.kafka.Start(t)
		return
	}
	f, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(b.port), kfake.DataDir(b.dir), kfake.ListenFn(b.froze.listen))
	if err != nil {
		t.Fatalf("start kfake on port %s: %v", strconv.Itoa(b.port), err)
	}
	b.Cluster.fake = f
}

// Pause freezes the broker: connections stay, new ones are made, and nothing answers. Resume ends it.
func (b *OwnBroker) Pause(t testing.TB) {
	t.Helper()
	if b.kafka != nil {
		b.kafka.Pause(t)
		return
	}
	b.froze.set(true)
}

// Resume continues a paused broker.
func (b *OwnBroker) Resume(t testing.TB) {
	t.Helper()
	if b.kafka != nil {
		b.kafka.Resume(t)
		return
	}
	b.froze.set(false)
}

// A freezer makes listeners whose connections stand still while it is frozen: what a client sends waits.
type freezer struct {
	mu     sync.Mutex
	frozen bool
	change chan struct{} // closed when frozen ends
}

func (f *freezer) set(frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case frozen && !f.frozen:
		f.change = make(chan struct{})
	case !frozen && f.frozen:
		close(f.change)
	}
	f.frozen = frozen
}

// wait returns when nothing is frozen.
func (f *freezer) wait() {
	f.mu.Lock()
	frozen, change := f.frozen, f.change
	f.mu.Unlock()
	if frozen {
		<-change
	}
}

func (f *freezer) listen(network, addr string) (net.Listener, error) {
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	return &frozenListener{l, f}, nil
}

type frozenListener struct {
	net.Listener
	f *freezer
}

func (l *frozenListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &frozenConn{c, l.f}, nil
}

type frozenConn struct {
	net.Conn
	f *freezer
}

func (c *frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.f.wait()
	return n, err
}

func (c *frozenConn) Write(b []byte) (int, error) {
	c.f.wait()
	return c.Conn.Write(b)
}
