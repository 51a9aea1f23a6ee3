package config

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Config is the whole file. Tags: yaml is the key; default what a missing key means; min, max, enum and pattern
// what a value must satisfy (for sizes and durations with units); required that it must be there; live that a
// running weir takes another value over (see [Config.Update]); desc what it says, for the JSON Schema.
type Config struct {
	Kafka      Kafka                 `yaml:"kafka" required:"true" desc:"The Kafka cluster that canonical events are read from."`
	Schema     Schema                `yaml:"schema" desc:"Where Avro schemas come from."`
	Checkpoint Checkpoint            `yaml:"checkpoint" desc:"Where outcomes and marks are kept."`
	Ops        Ops                   `yaml:"ops" desc:"The listener for metrics, health and the API."`
	Webhooks   Webhooks              `yaml:"webhooks,omitempty" desc:"The listener for vendors' callbacks."`
	Delivery   Delivery              `yaml:"delivery,omitempty" desc:"Bounds of sending; defaults of all connectors."`
	Window     Window                `yaml:"window,omitempty" desc:"How far ahead of the low-water mark a partition is read; defaults of all connectors."`
	Connectors map[string]*Connector `yaml:"connectors" required:"true" desc:"One entry per vendor connection. The name is part of the consumer group and of topic names: weir.<name>." keypattern:"^[a-z][a-z0-9_-]{0,62}$" keydesc:"a connector name: a lower-case letter, then at most 62 lower-case letters, digits, _ or -"`

	file string              // as given to Load, for messages
	at   map[string]position // of every key that the file has, by YAML path
}

// Kafka says how to reach the cluster.
type Kafka struct {
	Brokers  []string `yaml:"brokers" required:"true" desc:"Bootstrap servers, host:port."`
	ClientID string   `yaml:"client_id" default:"weir" pattern:"^[A-Za-z0-9._-]{1,249}$" desc:"Client id that brokers see in their logs and quotas."`
	// SessionTimeout is how long a killed process keeps its partitions: its successor waits that long.
	SessionTimeout Duration `yaml:"session_timeout" default:"10s" min:"1s" max:"5m" desc:"Time after which a process that died without a word loses its partitions; its successor waits that long. Brokers refuse less than their group.min.session.timeout.ms, 6 s by default."`
	TLS            *TLS     `yaml:"tls,omitempty" desc:"TLS to the brokers; {} uses the system's certificate authorities."`
	SASL           *SASL    `yaml:"sasl,omitempty" desc:"How to log in."`
}

// TLS names files in PEM form.
type TLS struct {
	CA   string `yaml:"ca,omitempty" kind:"path" desc:"File with the certificate authorities to trust; the system's if absent."`
	Cert string `yaml:"cert,omitempty" kind:"path" desc:"File with the client certificate, for mutual TLS."`
	Key  string `yaml:"key,omitempty" kind:"path" desc:"File with the client certificate's key."`
}

// SASL is a login.
type SASL struct {
	Mechanism string `yaml:"mechanism" required:"true" enum:"PLAIN,SCRAM-SHA-256,SCRAM-SHA-512" desc:"SASL mechanism."`
	User      string `yaml:"user" required:"true" desc:"User name."`
	Password  Secret `yaml:"password" live:"true" required:"true" desc:"Password, by reference."`
}

// Schema says where schemas come from.
type Schema struct {
	Registry string `yaml:"registry" default:"embedded" desc:"embedded, or the URL of a Confluent-compatible registry."`
	Dir      string `yaml:"dir,omitempty" kind:"path" desc:"Folder with further .avsc files and rules, for more entities."`
}

// Embedded reports whether the set of schemas that is built in is used, not a registry.
func (s Schema) Embedded() bool { return s.Registry == "" || s.Registry == "embedded" }

// Checkpoint names the store.
type Checkpoint struct {
	Store string `yaml:"store" default:"sqlite:weir.db" desc:"sqlite:<file>; the file is created if it does not exist."`
}

// SQLite is the file of an SQLite store, "" if the store is another one.
func (c Checkpoint) SQLite() string {
	path, ok := strings.CutPrefix(c.Store, "sqlite:")
	if !ok {
		return ""
	}
	return path
}

// Ops is the operators' listener.
type Ops struct {
	Listen string `yaml:"listen" default:"127.0.0.1:8080" desc:"host:port of metrics, health, API and cockpit. Other than loopback needs a token."`
	Token  Secret `yaml:"token,omitempty" live:"true" desc:"Bearer token that requests must carry, by reference; /healthz and /readyz need none."`
}

// Webhooks is the vendors' listener.
type Webhooks struct {
	Listen string `yaml:"listen,omitempty" desc:"host:port for vendors' callbacks, at the path /webhooks/<connector>; none if absent."`
	// MaxInFlight and BodyMax bound what strangers can make weir hold: their product is memory.
	MaxInFlight int  `yaml:"max_in_flight,omitempty" default:"64" min:"1" max:"10000" desc:"Callbacks that are handled at once; further ones are answered 503 with Retry-After."`
	BodyMax     Size `yaml:"body_max,omitempty" default:"256KiB" min:"1KiB" max:"16MiB" desc:"Largest body of a callback; a larger one is answered 413."`
}

// Delivery bounds sending (design sections 5 and 6; promise 6). In a connector a missing key means that of the
// file's delivery.
type Delivery struct {
	MaxInFlight    int      `yaml:"max_in_flight,omitempty" live:"true" default:"256" min:"1" max:"10000" desc:"Requests of one connector that may be on the wire at once, at most: an eighth at first, and more as long as they do not wait for a CPU."`
	AttemptsMax    int      `yaml:"attempts_max,omitempty" live:"true" default:"10" min:"1" max:"1000" desc:"Attempts of one record before it is parked as exhausted."`
	ElapsedMax     Duration `yaml:"elapsed_max,omitempty" live:"true" default:"15m" min:"1s" max:"168h" desc:"Time from a record's first attempt until it is parked as exhausted."`
	ReferenceWait  Duration `yaml:"reference_wait,omitempty" default:"60s" min:"1s" max:"24h" desc:"Time a record waits in its lane for the entity it refers to before it is parked; parked it is released when that entity arrives."`
	RequestTimeout Duration `yaml:"request_timeout,omitempty" default:"30s" min:"100ms" max:"10m" desc:"Time one request may take. Leases are longer by this margin."`
	DrainTimeout   Duration `yaml:"drain_timeout,omitempty" default:"20s" min:"1s" max:"5m" desc:"Time that requests in flight get to end when partitions are revoked or weir stops."`
}

// Window bounds the look-ahead of one partition. In a connector a missing key means that of the file's window.
type Window struct {
	Records int  `yaml:"records,omitempty" live:"true" default:"5000" min:"1" max:"10000000" desc:"Records of one partition that may be without an outcome."`
	Bytes   Size `yaml:"bytes,omitempty" live:"true" default:"32MiB" min:"64KiB" max:"16GiB" desc:"Their bytes."`
}

// Limit is what a connector says of a limit instead of its profile. A missing key means what the profile says.
type Limit struct {
	N      int      `yaml:"n,omitempty" min:"1" max:"1000000000" desc:"Requests per window."`
	Window Duration `yaml:"window,omitempty" min:"1s" max:"744h" desc:"The window."`
	Burst  int      `yaml:"burst,omitempty" min:"1" max:"1000000000" desc:"Requests at once, of a token bucket."`
}

// Connector is one vendor connection.
type Connector struct {
	Profile     string              `yaml:"profile" required:"true" desc:"Name of a built-in vendor profile, or the path of a profile file (with a slash or ending in .yaml)."`
	Mode        string              `yaml:"mode" default:"live" enum:"live,dry_run" desc:"live, or dry_run: all but the send, with a group, topics and a ledger of its own under the name <name>.dry_run; what would have been sent is skipped with reason dry_run."`
	Environment string              `yaml:"environment" default:"sandbox" pattern:"^[a-z][a-z0-9_-]{0,62}$" desc:"Environment of the profile, such as sandbox or production."`
	BaseURL     string              `yaml:"base_url,omitempty" desc:"Overrides the environment's base URL."`
	Proxy       string              `yaml:"proxy,omitempty" desc:"URL of the proxy that all requests to the vendor go through; none goes straight. If absent, the one that HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment name, which never counts for a loopback address."`
	TLS         *VendorTLS          `yaml:"tls,omitempty" desc:"TLS to the vendor."`
	Start       Start               `yaml:"start,omitempty" desc:"Where a topic is read from when neither group nor store knows: earliest, latest or an RFC 3339 time. Must be set in production; elsewhere earliest if absent."`
	Secrets     map[string]Secret   `yaml:"secrets,omitempty" live:"true" desc:"Credentials that the profile names, each by reference." keypattern:"^[A-Za-z_][A-Za-z0-9_]*$" keydesc:"a name of letters, digits and _"`
	Rotation    map[string]Rotation `yaml:"rotation,omitempty" live:"true" desc:"What is known of the life of a secret: its previous value, its age, its end; by the name of the secret. See docs/secrets.md." keypattern:"^[A-Za-z_][A-Za-z0-9_]*$" keydesc:"the name of a secret"`
	Vars        map[string]string   `yaml:"vars,omitempty" desc:"Values that the profile names." keypattern:"^[A-Za-z_][A-Za-z0-9_]*$" keydesc:"a name of letters, digits and _"`
	Topics      map[string]string   `yaml:"topics,omitempty" desc:"Topic per entity type where it is not canonical.<entity>." keypattern:"^[a-z][a-z0-9_]*$" keydesc:"an entity type such as customer"`
	Limits      map[string]Limit    `yaml:"limits,omitempty" live:"true" desc:"Own numbers for limits that the profile declares, such as those of another tier or a share of them; by the limit's name in the profile." keypattern:"^[a-z][a-z0-9_]*$" keydesc:"the name of a limit"`
	Delivery    Delivery            `yaml:"delivery,omitempty" desc:"Bounds of sending; a missing key means that of the file's delivery."`
	Window      Window              `yaml:"window,omitempty" desc:"Look-ahead; a missing key means that of the file's window."`
	Contract    *ContractCheck      `yaml:"contract_check,omitempty" desc:"Checks whether the vendor still answers as the profile believes; never if absent. See weir vendor check."`
}

// Rotation is what is known of the life of one secret.
type Rotation struct {
	Previous Secret   `yaml:"previous,omitempty" desc:"The value before, by reference, as long as the vendor may still want it: requests carry the new one, and this one once the vendor has refused the new one. Remove it when weir status shows that it is no longer used and the vendor has revoked it."`
	Issued   string   `yaml:"issued,omitempty" pattern:"^[0-9]{4}-[0-9]{2}-[0-9]{2}$" desc:"The day on which the value was made, YYYY-MM-DD, for max_age; if absent, the day on which its file was written."`
	MaxAge   Duration `yaml:"max_age,omitempty" min:"24h" max:"87600h" desc:"How old the value may become; warnings come 30, 14 and 7 days before, on a working day."`
	Expires  string   `yaml:"expires,omitempty" pattern:"^[0-9]{4}-[0-9]{2}-[0-9]{2}$" desc:"The last day on which the vendor takes the value, YYYY-MM-DD; warnings as for max_age."`
}

// DryRun reports whether nothing is sent.
func (k *Connector) DryRun() bool { return k.Mode == "dry_run" }

// RunName is the name under which the connector runs: group, topics, ledger and metrics have it. name is that of the config.
// A dry run has one of its own, so that it leaves nothing that a live run would find.
func (k *Connector) RunName(name string) string {
	if k.DryRun() {
		return name + ".dry_run"
	}
	return name
}

// ContractCheck says how often a connector's contract is checked.
type ContractCheck struct {
	Every Duration `yaml:"every" required:"true" min:"1m" max:"744h" desc:"Time between two checks. The first one is made after five minutes, or after this time if it is shorter. Their requests count against the vendor's quota; in production only reads are made."`
}

// VendorTLS is how a vendor's server proves who it is. What we show to it are secrets that the profile names.
type VendorTLS struct {
	CA string `yaml:"ca" kind:"path" required:"true" desc:"File with the certificate authorities, in PEM form, that the vendor's certificate must come from; the system's count no more."`
}

// Roots are the certificate authorities that the vendor's certificate must come from, nil for those of the system. The
// file is read now.
func (c *Connector) Roots() (*x509.CertPool, error) {
	if c.TLS == nil {
		return nil, nil
	}
	text, err := readBounded(c.TLS.CA, fileBytesMax)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("tls.ca: %s holds no certificate in PEM form", c.TLS.CA)
	}
	return pool, nil
}

// NoProxy is the value of Connector.Proxy that goes straight, whatever the environment says.
const NoProxy = "none"

// ProfileFile is the path of the connector's profile file, "" if the profile is a built-in one.
func (c *Connector) ProfileFile() string {
	if isProfileFile(c.Profile) {
		return c.Profile
	}
	return ""
}

func isProfileFile(s string) bool {
	return strings.ContainsAny(s, `/\`) || strings.HasSuffix(s, ".yaml") || strings.HasSuffix(s, ".yml")
}

// Topic is the topic of an entity type: the override, else canonical.<entity>.
func (c *Connector) Topic(entity string) string {
	if t := c.Topics[entity]; t != "" {
		return t
	}
	return "canonical." + entity
}

// Group is the consumer group of a connector (design section 17).
func Group(connector string) string { return "weir." + connector }

// Names lists the connectors' names, sorted.
func (c *Config) Names() []string { return slices.Sorted(maps.Keys(c.Connectors)) }

// File is the path that the config was loaded from, "" if it was not.
func (c *Config) File() string { return c.file }

// Load reads and checks the file at path. What is not said is filled with defaults, relative paths become
// relative to the file's folder. getenv answers ${env:X} references when a secret is used (os.Getenv); nothing
// is resolved here. The error is an [*Error] that lists all problems, or says that the file cannot be read.
func Load(path string, getenv func(string) string) (*Config, error) {
	data, err := readBounded(path, fileBytesMax)
	if err != nil {
		return nil, &Error{File: path, Err: err}
	}
	return Parse(path, data, getenv)
}

// fileBytesMax bounds the config file; a thousand connectors take a tenth of it.
const fileBytesMax = 4 << 20

// Parse is [Load] of a file's content; path is used in messages and as the root of relative paths.
func Parse(path string, data []byte, getenv func(string) string) (*Config, error) {
	b := &binder{file: path, getenv: getenv, dir: filepath.Dir(path), at: map[string]position{}}
	c := &Config{}
	if at := invalidUTF8(data); at != nil {
		return nil, &Error{File: path, Problems: []Problem{{File: path, Line: at.line, Column: at.column, What: "not UTF-8 from here on", Hint: "save the file as UTF-8"}}}
	}
	b.bind(data, c)
	if b.fatal {
		return nil, &Error{File: path, Problems: b.problems}
	}
	c.file, c.at = path, b.at
	full := c.WithDefaults()
	full.resolve(b.dir)
	problems := b.problems
	for _, p := range full.problems() {
		if !slices.ContainsFunc(b.problems, func(q Problem) bool { return covers(q.Path, p.Path) }) {
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path))
		})
		return nil, &Error{File: path, Problems: problems}
	}
	return full, nil
}

// covers reports whether a problem at path a explains one at path b: the same value, one inside it, or one
// around it that is missing because of it.
func covers(a, b string) bool {
	return a == "" || a == b || strings.HasPrefix(b, a+".") || strings.HasPrefix(b, a+"[") || strings.HasPrefix(a, b+"[")
}

// resolve makes relative paths relative to the folder of the file.
func (c *Config) resolve(dir string) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if t := c.Kafka.TLS; t != nil {
		abs(&t.CA)
		abs(&t.Cert)
		abs(&t.Key)
	}
	abs(&c.Schema.Dir)
	if p := c.Checkpoint.SQLite(); p != "" && p != ":memory:" {
		abs(&p)
		c.Checkpoint.Store = "sqlite:" + p
	}
	for _, k := range c.Connectors {
		if isProfileFile(k.Profile) {
			abs(&k.Profile)
		}
		if k.TLS != nil {
			abs(&k.TLS.CA)
		}
	}
}

// WithDefaults is a deep copy in which every missing value has its default. Delivery and window of a connector
// take what they lack from those of the file.
func (c *Config) WithDefaults() *Config {
	d := *c
	fillDefaults(&d)
	d.Kafka.Brokers = slices.Clone(c.Kafka.Brokers)
	if c.Kafka.TLS != nil {
		t := *c.Kafka.TLS
		d.Kafka.TLS = &t
	}
	if c.Kafka.SASL != nil {
		s := *c.Kafka.SASL
		d.Kafka.SASL = &s
	}
	d.Connectors = make(map[string]*Connector, len(c.Connectors))
	for name, k := range c.Connectors {
		if k == nil {
			k = &Connector{}
		}
		e := *k
		inherit(&e.Delivery, &d.Delivery)
		inherit(&e.Window, &d.Window)
		fillDefaults(&e)
		if e.Start.IsZero() && e.Environment != production {
			e.Start = Start{Earliest: true}
		}
		if k.TLS != nil {
			t := *k.TLS
			e.TLS = &t
		}
		if k.Contract != nil {
			t := *k.Contract
			e.Contract = &t
		}
		e.Secrets = maps.Clone(k.Secrets)
		e.Rotation = maps.Clone(k.Rotation)
		e.Vars = maps.Clone(k.Vars)
		e.Topics = maps.Clone(k.Topics)
		e.Limits = maps.Clone(k.Limits)
		d.Connectors[name] = &e
	}
	return &d
}

// production is the environment whose start must be chosen (design section 3).
const production = "production"

// Validate reports all problems of a config that has its defaults, as an [*Error]; nil if there is none.
func (c *Config) Validate() error {
	ps := c.problems()
	if len(ps) == 0 {
		return nil
	}
	return &Error{File: c.file, Problems: ps}
}

func (c *Config) problems() []Problem {
	v := &validator{config: c}
	v.tags("", c)
	for i, b := range c.Kafka.Brokers {
		v.hostPort(element("kafka.brokers", i), b, "a broker")
	}
	if t := c.Kafka.TLS; t != nil && (t.Cert == "") != (t.Key == "") {
		v.add("kafka.tls", "cert and key belong together, one of them is missing", "give both for mutual TLS, or neither")
	}
	if !c.Schema.Embedded() {
		v.url("schema.registry", c.Schema.Registry, "use embedded, or a URL such as https://registry:8081")
	}
	v.store(c.Checkpoint.Store)
	if v.hostPort("ops.listen", c.Ops.Listen, "a listen address") && !loopback(c.Ops.Listen) && c.Ops.Token.IsZero() {
		v.add("ops.listen", quote(c.Ops.Listen)+" can be reached from other machines, and there is no token",
			"listen on 127.0.0.1, or set ops.token: ${file:/path} (and put TLS in front)")
	}
	if c.Webhooks.Listen != "" {
		v.hostPort("webhooks.listen", c.Webhooks.Listen, "a listen address")
	}
	for _, name := range c.Names() {
		c.Connectors[name].problems(v, join("connectors", name))
	}
	return v.problems
}

func (k *Connector) problems(v *validator, path string) {
	if k.BaseURL != "" {
		v.url(join(path, "base_url"), k.BaseURL, "use a URL such as https://api.example.com")
	}
	if k.Proxy != "" && k.Proxy != NoProxy {
		v.url(join(path, "proxy"), k.Proxy, "use a URL such as http://proxy:3128, or none")
	}
	for _, name := range slices.Sorted(maps.Keys(k.Rotation)) {
		k.rotationProblems(v, join(path, "rotation", name), name)
	}
	if k.Start.IsZero() {
		v.add(join(path, "start"), "missing: in production the start must be chosen",
			"set start to earliest, latest or a time such as 2026-01-31T00:00:00Z")
	}
	for _, e := range slices.Sorted(maps.Keys(k.Topics)) {
		if t := k.Topics[e]; !topicName.MatchString(t) || t == "." || t == ".." {
			v.add(join(path, "topics", e), quote(t)+" is not a topic name", "use letters, digits, '.', '_' and '-', at most 249")
		}
	}
}

func (k *Connector) rotationProblems(v *validator, path, name string) {
	r, secret := k.Rotation[name], k.Secrets[name]
	if secret.IsZero() {
		v.add(path, "the connector has no secret of this name", "the names are those under secrets")
		return
	}
	if !r.Previous.IsZero() && r.Previous.Ref() == secret.Ref() {
		v.add(join(path, "previous"), "is the same reference as the secret itself", "keep the value before in a file or variable of its own")
	}
	for key, day := range map[string]string{"issued": r.Issued, "expires": r.Expires} {
		if _, err := time.Parse(time.DateOnly, day); day != "" && err != nil {
			v.add(join(path, key), quote(day)+" is no day", "write it as YYYY-MM-DD")
		}
	}
	if r.MaxAge != 0 && r.Issued == "" && !strings.HasPrefix(secret.Ref(), "${file:") {
		v.add(join(path, "max_age"), "nothing says how old the value of an environment variable is", "give issued: YYYY-MM-DD beside it")
	}
}

func (v *validator) store(s string) {
	switch scheme, rest, _ := strings.Cut(s, ":"); scheme {
	case "sqlite":
		if rest == "" {
			v.add("checkpoint.store", "sqlite: names no file", "use sqlite:weir.db")
		}
	case "postgres", "postgresql":
		v.add("checkpoint.store", "this build has no postgres store", "use sqlite:weir.db")
	default:
		// Not repeated: what is not understood may hold a password.
		v.add("checkpoint.store", "not a store that this build knows", "use sqlite:<file>, such as sqlite:weir.db")
	}
}

// hostPort reports whether s is host:port; kind is what it should be, with its article.
func (v *validator) hostPort(path, s, kind string) bool {
	host, port, err := net.SplitHostPort(s)
	if err == nil && port != "" {
		if _, perr := net.LookupPort("tcp", port); perr == nil && !strings.ContainsAny(host, "/@ ") {
			return true
		}
	}
	// Not repeated when it could hold a password.
	shown := quote(s)
	if strings.Contains(s, "@") {
		shown = "the value"
	}
	v.add(path, shown+" is not "+kind, "use host:port, such as 127.0.0.1:9092")
	return false
}

// url refuses what is not an http(s) URL; one with a password is not repeated.
func (v *validator) url(path, s, hint string) {
	u, err := url.Parse(s)
	switch {
	case strings.Contains(s, "@") && (err != nil || u.User != nil):
		v.add(path, "the URL holds a user or password", "put credentials under secrets, by reference")
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		v.add(path, quote(s)+" is not an http or https URL", hint)
	case u.RawQuery != "" || u.Fragment != "":
		v.add(path, "the URL has a query or fragment", "give scheme, host, port and path alone")
	}
}

// loopback reports whether an address is reachable from this machine alone.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Start is where a topic is read from when neither the group nor the store knows (design section 3). The zero
// value means that nothing was chosen.
type Start struct {
	Earliest bool
	Latest   bool
	Time     time.Time
}

// ParseStart reads earliest, latest or an RFC 3339 time.
func ParseStart(s string) (Start, bool) {
	switch s {
	case "earliest":
		return Start{Earliest: true}, true
	case "latest":
		return Start{Latest: true}, true
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.UnixMilli() <= 0 {
		return Start{}, false
	}
	return Start{Time: t.UTC()}, true
}

// IsZero reports whether nothing was chosen.
func (s Start) IsZero() bool { return !s.Earliest && !s.Latest && s.Time.IsZero() }

// String is the form that the file has; "" if nothing was chosen.
func (s Start) String() string {
	switch {
	case s.Earliest:
		return "earliest"
	case s.Latest:
		return "latest"
	case s.Time.IsZero():
		return ""
	}
	return s.Time.Format(time.RFC3339Nano)
}

// MarshalYAML is the form that the file has.
func (s Start) MarshalYAML() (any, error) { return s.String(), nil }

// invalidUTF8 is the place of the first bytes that are no UTF-8, nil if all are.
func invalidUTF8(data []byte) *position {
	at := position{1, 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 {
			return &at
		}
		at.column++
		if r == '\n' {
			at = position{at.line + 1, 1}
		}
		data = data[n:]
	}
	return nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, limit)
}
