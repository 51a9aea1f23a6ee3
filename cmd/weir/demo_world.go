package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/kafka/embedded"
	"github.com/weirsync/weir/connector/sandbox"
)

// demoVendorsAll are the vendors that a demo can have; connectors, profiles and sandboxes have their names.
var demoVendorsAll = []string{"pushcash", "finfusion", "plain"}

// demoVendorsDefault: Push Cash recognises repeats, plain does not. Only together do they show what weir does about either.
var demoVendorsDefault = []string{"pushcash", "plain"}

// demoKeys are keys of the form that each vendor gives out; the sandboxes take any.
var demoKeys = map[string]string{"pushcash": "push_sandbox_", "finfusion": "dev_", "plain": ""}

// demoSession is how long the broker waits for a process that was killed. Three seconds are half of what Kafka's
// brokers allow by default: a demo is short.
const demoSession = 3 * time.Second

// demoPartitions of each topic: more than one, so that order is per key and not by accident.
const demoPartitions = 6

// A demoWorld is what the connectors of a demo talk to: a broker and the vendors, in this process.
type demoWorld struct {
	dir     string
	broker  *embedded.Broker
	vendors []*demoVendor
}

type demoVendor struct {
	name    string
	box     *sandbox.Sandbox
	at      sandbox.Listener
	effects string // file of its effects log
}

// A demoPlace is what a demo's folder says of where its servers listen, so that they can be opened again there.
type demoPlace struct {
	Broker     string             `json:"broker"`
	LimitScale float64            `json:"limit_scale"`
	Seed       uint64             `json:"seed"`
	Vendors    []sandbox.Listener `json:"vendors"`
}

// Files of a demo's folder.
const (
	demoPlaceFile  = "demo.json"
	demoConfigFile = "weir.yaml"
	demoKeyFile    = "api_key" // after the vendor's name
	demoStoreFile  = "weir.db"
	demoLogFile    = "run.log"
)

// openDemoWorld starts broker and vendors with all that they keep in the folder, where place says, or anywhere if
// it says nothing.
func openDemoWorld(ctx context.Context, dir string, vendors []string, place demoPlace) (_ *demoWorld, err error) {
	w := &demoWorld{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	port := 0
	if place.Broker != "" {
		_, text, serr := net.SplitHostPort(place.Broker)
		if port, err = strconv.Atoi(text); serr != nil || err != nil {
			return nil, yours(filepath.Join(dir, demoPlaceFile), fmt.Errorf("broker %q is not host:port", place.Broker), "")
		}
	}
	topics := map[string]int32{}
	for _, e := range []string{"customer", "contract", "invoice"} {
		topics[canonicalTopic(e)] = demoPartitions
	}
	if w.broker, err = embedded.Start(ctx, embedded.Options{Dir: filepath.Join(dir, "kafka"), Port: port, Topics: topics}); err != nil {
		return nil, environment("start the demo's broker", err, "")
	}
	for i, name := range vendors {
		v := &demoVendor{name: name, effects: filepath.Join(dir, name+".effects.jsonl")}
		v.box, err = sandbox.New(name, sandbox.Options{LimitScale: place.LimitScale, Seed: place.Seed, EffectsFile: v.effects, Persist: filepath.Join(dir, "vendors")})
		if err != nil {
			return nil, environment("start the sandbox of "+name, err, "")
		}
		w.vendors = append(w.vendors, v)
		addr, admin := "", ""
		if len(place.Vendors) > i {
			addr, admin = strings.TrimPrefix(place.Vendors[i].URL, "http://"), strings.TrimPrefix(place.Vendors[i].AdminURL, "http://")
		}
		if v.at, err = v.box.Start(ctx, addr, admin); err != nil {
			return nil, environment("start the sandbox of "+name, err, "")
		}
	}
	return w, nil
}

func (w *demoWorld) close() error {
	var errs []error
	for _, v := range w.vendors {
		errs = append(errs, v.box.Close())
	}
	if w.broker != nil {
		w.broker.Close()
	}
	return errors.Join(errs...)
}

// place is where its servers listen.
func (w *demoWorld) place(scale float64, seed uint64) demoPlace {
	p := demoPlace{Broker: w.broker.Addr(), LimitScale: scale, Seed: seed}
	for _, v := range w.vendors {
		p.Vendors = append(p.Vendors, v.at)
	}
	return p
}

// config is the text of the demo's weir.yaml: what an operator would write, and a few waits that are shorter, since a
// demo is. Strings are quoted as JSON, which YAML reads.
func (w *demoWorld) config() string {
	var b strings.Builder
	q := func(s string) string { out, _ := json.Marshal(s); return string(out) }
	fmt.Fprintf(&b, `# Made by weir demo. Broker and vendors are part of the demo: weir demo --reopen brings them back.
kafka:
  brokers: [%s]
  session_timeout: %s # a killed process keeps its partitions so long; 10s is the default
checkpoint: {store: %s}
ops: {listen: "127.0.0.1:0"}
delivery:
  attempts_max: 3    # 10 is the default
  reference_wait: 2s # 60s is the default
  request_timeout: 3s # 30s is the default: a key whose answer was lost waits that long before its next request
  max_in_flight: 32  # 256 is the default: that many payments can be in doubt when the process is killed
connectors:
`, q(w.broker.Addr()), demoSession, q("sqlite:"+filepath.Join(w.dir, demoStoreFile)))
	for _, v := range w.vendors {
		fmt.Fprintf(&b, "  %s:\n    profile: %s\n    base_url: %s\n    start: earliest\n    secrets: {api_key: %s}\n",
			v.name, v.name, q(v.at.URL), q("${file:"+filepath.Join(w.dir, v.name+"."+demoKeyFile)+"}"))
	}
	return b.String()
}

// writeDemoFiles writes what the child and later commands need.
func (a *app) writeDemoFiles(w *demoWorld, place demoPlace) error {
	placed, err := json.MarshalIndent(place, "", "  ")
	if err != nil {
		return err
	}
	files := map[string]string{demoConfigFile: w.config(), demoPlaceFile: string(placed) + "\n"}
	for _, v := range w.vendors {
		files[v.name+"."+demoKeyFile] = demoKeys[v.name] + strings.Repeat("0", 32) + "\n"
	}
	for name, text := range files {
		if err := a.writeFile(filepath.Join(w.dir, name), text); err != nil {
			return yours("write the demo's folder", err, "give a folder that can be written with --keep")
		}
	}
	return nil
}

func (a *app) writeFile(path, text string) error {
	f, err := a.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	return errors.Join(err, f.Close())
}

// reopen serves the broker and the vendors of a kept folder until it is stopped.
func (c *demoCmd) reopen(ctx context.Context) (err error) {
	dir, err := filepath.Abs(c.reopenDir)
	if err != nil {
		return err
	}
	text, err := c.readFile(filepath.Join(dir, demoPlaceFile))
	var place demoPlace
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		err = dec.Decode(&place)
	}
	if err != nil {
		return yours("--reopen "+c.reopenDir, err, "give the folder that weir demo printed or was given with --keep")
	}
	ctx, stop := c.interruptible(ctx, nil)
	defer stop()
	var vendors []string
	for _, v := range place.Vendors {
		vendors = append(vendors, v.Vendor)
	}
	w, err := openDemoWorld(ctx, dir, vendors, place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	config := shellWord(filepath.Join(dir, demoConfigFile))
	self := c.self()
	fmt.Fprintf(c.Stdout, "Kafka at %s", w.broker.Addr())
	for _, v := range w.vendors {
		fmt.Fprintf(c.Stdout, ", %s at %s", v.name, v.at.URL)
	}
	fmt.Fprintf(c.Stdout, `, until Ctrl-C. In another terminal:

  %s status --config %s
  %s run --config %s --limit-scale %s     # deliver again; nothing of it twice
  %s publish --config %s --sample 100 --seed 2
`, self, config, self, config, plainNumber(place.LimitScale), self, config)
	for _, v := range w.vendors {
		fmt.Fprintf(c.Stdout, "  %s verify --config %s --connector %s --effects %s\n", self, config, v.name, v.at.AdminURL)
	}
	<-ctx.Done()
	return nil
}

// self is how this program was called, for commands that people copy: a program that go run has built is gone when it
// has ended.
func (a *app) self() string {
	if strings.Contains(filepath.ToSlash(a.Command().Path), "/go-build") {
		return "go run ./cmd/weir"
	}
	return "weir"
}

// plainNumber is a number without an exponent.
func plainNumber(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// shellWord is s as one word for a shell.
func shellWord(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-/:", c)
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
