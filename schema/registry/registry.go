// Package registry finds writer schemas in a Confluent-compatible schema registry (design section 4).
//
// A schema id names one text for ever, so what was found is kept for the life of the client. What the registry says
// it does not have is remembered for a bounded time only: it may be registered later. A registry that does not
// answer, or does not let us in, is the environment: the error is neither remembered nor a refusal, and the record
// waits.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/sync/singleflight"

	"github.com/weirsync/weir/schema"
)

// Options of a client. Zero fields mean the defaults.
type Options struct {
	URLs        []string // one registry's addresses; the next one is asked where one cannot be reached. Required
	User        string   // basic authentication, with Password
	Password    string
	BearerToken string // instead of User
	// Transport makes the requests; default http.DefaultTransport. A private CA or a client certificate goes here.
	Transport http.RoundTripper
	// Timeout of one lookup, all its requests together. Default 10 s.
	Timeout time.Duration
	// UnknownFor is how long an id that the registry does not know is not asked for again. Default 1 minute: an
	// unknown id in a topic then costs one request per minute, and a late registration is seen soon.
	UnknownFor time.Duration
	// Now is the clock of UnknownFor. Default time.Now.
	Now func() time.Time
}

// Bounds (promise 6).
const (
	unknownMax     = 10_000  // ids remembered as unknown: 1 MB
	answerBytesMax = 4 << 20 // of one answer; registries take schemas up to 1 MiB, escaped as JSON
	referencesMax  = 64      // schemas that one schema refers to, directly or not
)

// A Client is a schema.Lookup over HTTP. Safe for concurrent use; lookups of one id share one request.
type Client struct {
	sr      *sr.Client
	o       Options
	flight  singleflight.Group
	mu      sync.RWMutex
	known   map[key]*schema.Schema
	unknown *lru.Cache[key, miss]
}

var _ schema.Lookup = (*Client)(nil)

// A key is what a record asks for: an id or a GUID, for the subject of its topic.
type key struct {
	subject schema.Subject
	id      schema.ID
	guid    [16]byte
}

type miss struct {
	err   error
	until time.Time
}

// New makes a client. It asks nothing yet.
func New(o Options) (*Client, error) {
	if len(o.URLs) == 0 {
		return nil, errors.New("schema registry: no URL")
	}
	for _, u := range o.URLs {
		if p, err := url.Parse(u); err != nil || p.Host == "" || p.User != nil { // never show it: it may hold a password
			return nil, errors.New("schema registry: want URLs like https://registry:8081, without a user in them: give user and password apart")
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.UnknownFor <= 0 {
		o.UnknownFor = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	opts := []sr.ClientOpt{
		sr.URLs(o.URLs...),
		sr.UserAgent("weir"),
		sr.HTTPClient(&http.Client{Transport: bounded{o.Transport}, Timeout: o.Timeout}),
	}
	switch {
	case o.User != "" && o.BearerToken != "":
		return nil, errors.New("schema registry: both a user and a bearer token are given: use one")
	case o.User != "":
		opts = append(opts, sr.BasicAuth(o.User, o.Password))
	case o.BearerToken != "":
		opts = append(opts, sr.BearerToken(o.BearerToken))
	}
	cl, err := sr.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("schema registry %s: %w", strings.Join(o.URLs, ", "), err)
	}
	unknown, err := lru.New[key, miss](unknownMax)
	if err != nil {
		return nil, err // only for a size that is not positive
	}
	return &Client{sr: cl, o: o, known: map[key]*schema.Schema{}, unknown: unknown}, nil
}

// ByID implements schema.Lookup.
func (c *Client) ByID(ctx context.Context, subject schema.Subject, id schema.ID) (*schema.Schema, error) {
	return c.lookup(ctx, key{subject: subject, id: id}, func(ctx context.Context) (*schema.Schema, error) {
		return c.fetch(ctx, subject, id)
	})
}

// ByGUID implements schema.Lookup.
func (c *Client) ByGUID(ctx context.Context, subject schema.Subject, guid [16]byte) (*schema.Schema, error) {
	return c.lookup(ctx, key{subject: subject, guid: guid}, func(ctx context.Context) (*schema.Schema, error) {
		text := uuid.UUID(guid).String()
		ids, err := c.sr.SchemaIDsByGUID(ctx, text)
		if err != nil {
			return nil, answer("schema GUID "+text, err)
		}
		for _, x := range ids { // an id belongs to a context; "." is the default one, which the client asks in
			if x.Context == "." || x.Context == "" {
				return c.ByID(ctx, subject, schema.ID(x.ID))
			}
		}
		return nil, fmt.Errorf("schema GUID %s is in no default context of the registry: %w", text, schema.ErrUnknownSchema)
	})
}

func (c *Client) lookup(ctx context.Context, k key, fetch func(context.Context) (*schema.Schema, error)) (*schema.Schema, error) {
	c.mu.RLock()
	s := c.known[k]
	c.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	if m, ok := c.unknown.Get(k); ok {
		if c.o.Now().Before(m.until) {
			return nil, m.err
		}
		c.unknown.Remove(k)
	}
	// The request outlives a caller that gives up: the others wait for the same answer.
	ch := c.flight.DoChan(fmt.Sprintf("%s/%d/%x", k.subject, k.id, k.guid), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.o.Timeout)
		defer cancel()
		s, err := fetch(ctx)
		switch {
		case err == nil:
			c.mu.Lock()
			if first := c.known[k]; first != nil { // two flights in a row: decoders keep plans by pointer
				s = first
			}
			c.known[k] = s
			c.mu.Unlock()
		case errors.Is(err, schema.ErrUnknownSchema):
			c.unknown.Add(k, miss{err, c.o.Now().Add(c.o.UnknownFor)})
		}
		return s, err
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("schema registry: %w", context.Cause(ctx))
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*schema.Schema), nil
	}
}

func (c *Client) fetch(ctx context.Context, subject schema.Subject, id schema.ID) (*schema.Schema, error) {
	what := fmt.Sprintf("schema id %d", id)
	ctx = sr.WithParams(ctx, sr.ShowDeleted) // records outlive a deletion of their schema
	text, err := c.sr.SchemaByID(ctx, int(id))
	if err != nil {
		return nil, answer(what, err)
	}
	if text.Type != sr.TypeAvro {
		return nil, fmt.Errorf("%s is a %s schema, want Avro: %w", what, text.Type, schema.ErrUnknownSchema)
	}
	uses, err := c.sr.SchemaVersionsByID(ctx, int(id))
	if err != nil {
		return nil, answer("subjects of "+what, err)
	}
	if len(uses) == 0 {
		return nil, fmt.Errorf("%s belongs to no subject: %w", what, schema.ErrUnknownSchema)
	}
	slices.SortFunc(uses, func(a, b sr.SubjectVersion) int {
		if d := strings.Compare(a.Subject, b.Subject); d != 0 {
			return d
		}
		return a.Version - b.Version
	})
	use := uses[0]
	if i := slices.IndexFunc(uses, func(u sr.SubjectVersion) bool { return u.Subject == string(subject) }); i >= 0 {
		use = uses[i]
	}
	d := &deps{c: c, left: referencesMax, seen: map[ref]bool{}}
	if err := d.load(ctx, text.References); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	s, err := schema.NewSchema(schema.Subject(use.Subject), use.Version, id, text.Schema, d.types...)
	if err != nil { // for ever: an id names one text
		return nil, fmt.Errorf("%s: %w: %w", what, err, schema.ErrUnknownSchema)
	}
	return s, nil
}

type ref struct {
	subject string
	version int
}

// deps loads what a schema refers to, the deepest first.
type deps struct {
	c     *Client
	left  int
	seen  map[ref]bool
	types []*schema.Type
}

func (d *deps) load(ctx context.Context, refs []sr.SchemaReference) error {
	for _, r := range refs {
		k := ref{r.Subject, r.Version}
		if d.seen[k] {
			continue
		}
		d.seen[k] = true
		if d.left--; d.left < 0 {
			return fmt.Errorf("it refers to more than %d schemas: %w", referencesMax, schema.ErrUnknownSchema)
		}
		what := fmt.Sprintf("reference %s version %d", r.Subject, r.Version)
		s, err := d.c.sr.SchemaByVersion(ctx, r.Subject, r.Version)
		if err != nil {
			return answer(what, err)
		}
		if err := d.load(ctx, s.References); err != nil {
			return err
		}
		t, err := schema.Parse([]byte(s.Schema.Schema), d.types...)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", what, err, schema.ErrUnknownSchema)
		}
		d.types = append(d.types, t)
	}
	return nil
}

// answer tells "there is no such schema" from all else. Only the registry's own error code counts: a 404 without
// one comes from a proxy or a wrong address.
func answer(what string, err error) error {
	if re, ok := errors.AsType[*sr.ResponseError](err); ok {
		if re.StatusCode == http.StatusNotFound && sr.IsNotFoundError(re.ErrorCode) {
			return fmt.Errorf("the schema registry does not know %s: %w", what, schema.ErrUnknownSchema)
		}
		// Not the answer's text: a proxy's may be a page, or repeat what we sent.
		return fmt.Errorf("ask the schema registry for %s: it answers with status %d and error code %d; check its address and our credentials",
			what, re.StatusCode, re.ErrorCode)
	}
	return fmt.Errorf("ask the schema registry for %s: %w", what, err)
}

// bounded cuts answers off, since the client reads them whole.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: answerBytesMax}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is larger than %d bytes", answerBytesMax)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
