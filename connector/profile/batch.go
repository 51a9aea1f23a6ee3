package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// A Batch is the form of an operation that takes several records in one request (design section 6, Batch). Its items
// are the bodies of single requests, and each result reads like the answer to one: verdicts and remembered values are
// those of the operation. It is read only and safe for concurrent use.
type Batch struct {
	Method string
	Path   string
	// Max is how many items one request may have, at least 2; BytesMax bounds its body.
	Max      int
	BytesMax int
	// Linger is how long the first item waits for others.
	Linger time.Duration
	// Definite: a result that is no success proves that its item had no effect.
	Definite bool

	op        *Operation
	itemsName string
	constants []byte // `"name":value,...`
	results   string
	index     string // "" if the order of the results is that of the items
	status    string
	body      string
}

// batchDecl is a batch as the profile file declares it.
type batchDecl struct {
	method, path           string
	max, bytesMax          int
	linger                 time.Duration
	items                  string
	constants              []byte
	results                string
	index, status, bodyKey string
	definite               bool
}

// Bounds of batches. 1 MiB is a body limit that common gateways have; a linger beyond a second would be felt.
const (
	batchMaxMax         = 10_000
	batchBytesDefault   = 1 << 20
	batchBytesMax       = 64 << 20
	batchLingerDefault  = 20 * time.Millisecond
	batchLingerMax      = 10 * time.Second
	batchConstantsBytes = 4 << 10
)

// batch reads the batch form of an operation.
func (r *reader) batch(n node) *batchDecl {
	b := &batchDecl{method: http.MethodPost, bytesMax: batchBytesDefault, linger: batchLingerDefault}
	r.fields(n, map[string]func(node){
		"method": func(n node) { b.method = r.method(n) },
		"path":   func(n node) { b.path = r.urlPath(n) },
		"max":    func(n node) { b.max = int(r.integer(n, 2, batchMaxMax)) },
		"bytes_max": func(n node) {
			b.bytesMax = int(r.integer(n, 1024, batchBytesMax))
		},
		"linger": func(n node) { b.linger = r.duration(n, 0, batchLingerMax) },
		"items":  func(n node) { b.items = r.text(n) },
		"fields": func(n node) { b.constants = r.constants(n) },
		"results": func(n node) {
			r.fields(n, map[string]func(node){
				"list":     func(n node) { b.results = r.text(n) },
				"index":    func(n node) { b.index = r.text(n) },
				"status":   func(n node) { b.status = r.text(n) },
				"body":     func(n node) { b.bodyKey = r.text(n) },
				"definite": func(n node) { b.definite = r.boolean(n) },
			})
			r.need(n, b.results != "", "list", "the field of the answer that holds one result per item")
			r.need(n, b.status != "", "status", "the field of a result that holds its HTTP status")
		},
	})
	r.need(n, b.path != "", "path", "")
	r.need(n, b.max != 0, "max", "how many items one request may have")
	r.need(n, b.items != "", "items", "the field of the body that holds the items")
	r.need(n, b.results != "", "results", "where the answer says what became of each item")
	return b
}

// constants reads the fields that a batch's body has beside its items: texts, integers and booleans.
func (r *reader) constants(n node) []byte {
	var out []byte
	for _, e := range r.entries(n) {
		var v any
		switch kindName(e.value.Node) {
		case "an integer":
			v = r.integer(e.value, -1<<53, 1<<53)
		case "a boolean":
			v = r.boolean(e.value)
		default:
			v = r.text(e.value)
		}
		name, _ := json.Marshal(e.key)
		value, err := json.Marshal(v)
		if err != nil || len(out) > batchConstantsBytes {
			r.errorf(e.value, "a text, an integer, true or false", "%q cannot be a constant field", clip(e.key))
			continue
		}
		out = append(append(append(append(out, name...), ':'), value...), ',')
	}
	return out
}

// compileBatch checks a batch against its operation.
func (r *reader) compileBatch(o *operation, op *Operation) {
	b := o.batch
	if b == nil {
		return
	}
	switch {
	case o.body == nil:
		r.at(o.at, "declare the body of one item: body", "operation %s has a batch and no body", o.name)
	case o.natural && o.keyIn == "header":
		r.at(o.at, "", "a natural key in a header cannot name the items of a batch")
	case len(op.Ends) > 0:
		r.at(o.at, "", "an operation that ends vendor ids has no batch: the step after it waits for it")
	}
	op.Batch = &Batch{Method: b.method, Path: b.path, Max: b.max, BytesMax: b.bytesMax, Linger: b.linger, Definite: b.definite, op: op, itemsName: b.items,
		constants: b.constants, results: b.results, index: b.index, status: b.status, body: b.bodyKey}
}

// Apart reports whether an item that may have had its effect may be sent again apart from its batch: it carries a key by
// which the vendor recognises it, or it writes the same state again.
func (b *Batch) Apart() bool {
	return b.op.Class == ClassOverwrite || b.op.Class == ClassKey && b.op.decl.keyIn == "body"
}

// Build makes the request that carries the items, in their order. key is the batch's own; it goes where single
// requests have theirs if that is a header. The same items and key give the same bytes.
func (b *Batch) Build(items []*Request, key string) *Request {
	op := b.op
	n := len(b.constants) + 64
	for _, it := range items {
		n += len(it.Body) + 1
	}
	body := make([]byte, 0, n)
	body = append(body, '{')
	body = append(body, b.constants...)
	name, _ := json.Marshal(b.itemsName)
	body = append(append(body, name...), ':', '[')
	for i, it := range items {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, it.Body...)
	}
	body = append(body, ']', '}')
	req := &Request{Operation: op, Step: items[0].Step, Method: b.Method, Path: b.Path, Body: body, Header: make(http.Header, len(op.headers)+1)}
	for _, h := range op.headers {
		req.Header[h.name] = h.value
	}
	if op.Class == ClassKey {
		req.IdempotencyKey = key
		if op.decl.keyIn == "header" {
			req.Header[op.decl.keyName] = []string{key}
		}
	}
	return req
}

// Split reads an accepted answer as one answer per item, in the order of the items. The error says what is wrong with
// the answer; it holds no value of it.
func (b *Batch) Split(ans *Answer, n int) ([]*Answer, error) {
	var doc map[string]json.RawMessage
	if json.Unmarshal(ans.Body, &doc) != nil {
		return nil, errors.New("the answer is no JSON object, or larger than is read")
	}
	var list []map[string]json.RawMessage
	if json.Unmarshal(doc[b.results], &list) != nil {
		return nil, fmt.Errorf("field %q of the answer is no list of objects", b.results)
	}
	out := make([]*Answer, n)
	for i, res := range list {
		if b.index != "" {
			if json.Unmarshal(res[b.index], &i) != nil {
				return nil, fmt.Errorf("field %q of a result is no integer", b.index)
			}
		}
		if i < 0 || i >= n {
			return nil, fmt.Errorf("there is a result %d, and %d items were sent", i, n)
		}
		if out[i] != nil {
			return nil, fmt.Errorf("there are two results %d", i)
		}
		a := &Answer{Header: ans.Header, At: ans.At}
		if err := json.Unmarshal(res[b.status], &a.Status); err != nil || a.Status < 100 || a.Status > 599 {
			return nil, fmt.Errorf("field %q of result %d is no HTTP status", b.status, i)
		}
		if body, ok := res[b.body]; ok && !bytes.Equal(body, []byte("null")) {
			a.Body = body
		} else if a.Body, _ = json.Marshal(res); a.Body == nil {
			return nil, fmt.Errorf("result %d cannot be read", i)
		}
		out[i] = a
	}
	for i, a := range out {
		if a == nil {
			return nil, fmt.Errorf("there is no result %d of %d", i, n)
		}
	}
	return out, nil
}
