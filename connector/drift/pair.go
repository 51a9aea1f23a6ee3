// Package drift finds out whether a vendor still answers as its profile believes. A contract is a folder of pairs, each one
// request and the shape of the answer that was recorded for it. A check makes the requests in order, on objects that it
// makes itself, and names every difference ([Checker.Check]); a recording writes the shapes ([Checker.Record]).
//
// What is trusted: the folder, which is reviewed like code. What is not: the answers. They are bounded by package deliver,
// and of their values only words in the place of known words and sentences in the place of known sentences are repeated.
package drift

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Bounds of a contract.
const (
	// FileBytesMax is the largest file of a pair.
	FileBytesMax = 256 << 10
	// PairsMax is the number of pairs in a folder.
	PairsMax = 200
	// depthMax bounds nesting of a shape, which is read by recursion.
	depthMax = 64
)

// A Pair is one request and what its answer looked like when it was recorded. It is the file <name>.json.
type Pair struct {
	Name string `json:"-"`
	// Operation is the profile's name of it, default Name: its timeout, fixed headers and encoding count. A name that the
	// profile does not have is good too, such as that of a read that Weir never makes.
	Operation string `json:"operation,omitempty"`
	Order     int    `json:"order"` // pairs run by it, then by name
	// Writes: it makes, changes or ends something at the vendor.
	Writes bool `json:"writes,omitempty"`
	// SandboxOnly: it never runs in production, such as a payment.
	SandboxOnly bool    `json:"sandbox_only,omitempty"`
	Request     Request `json:"request"`
	// Free names fields, at any depth of the answer, whose content is the caller's own, such as metadata.
	Free   []string `json:"free,omitempty"`
	Status int      `json:"status,omitempty"` // 0: not recorded yet
	Answer *Shape   `json:"answer,omitempty"` // nil: no body
}

// A Request is what a pair sends. {reference} in a text stands for a name that each run makes anew, {<pair>.<field>} for
// a text or number of an earlier answer, dotted for a nested one, with the number of an item of a list.
type Request struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"` // with query, relative to the base URL
	Headers map[string]string `json:"headers,omitempty"`
	Body    map[string]any    `json:"body,omitempty"`
}

var (
	pairName    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	placeholder = regexp.MustCompile(`\{([a-z][A-Za-z0-9_.]*)\}`)
)

// Load reads the pairs of a folder, in the order in which they run. Its error names the file.
func Load(dir fs.FS) ([]*Pair, error) {
	files, err := fs.Glob(dir, "*.json")
	if err != nil {
		return nil, err
	}
	if len(files) > PairsMax {
		return nil, fmt.Errorf("%d files, more than %d", len(files), PairsMax)
	}
	var out []*Pair
	for _, file := range files {
		p, err := loadPair(dir, file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b *Pair) int { return a.Order - b.Order })
	for i, p := range out {
		for _, ref := range p.Request.references() {
			from, _, _ := strings.Cut(ref, ".")
			if !slices.ContainsFunc(out[:i], func(q *Pair) bool { return q.Name == from }) {
				return nil, fmt.Errorf("%s.json: {%s}: no pair %s runs before this one", p.Name, ref, from)
			}
		}
	}
	return out, nil
}

func loadPair(dir fs.FS, file string) (*Pair, error) {
	name := strings.TrimSuffix(file, ".json")
	if !pairName.MatchString(name) {
		return nil, errors.New("the name of a file is lower-case words joined by _")
	}
	info, err := fs.Stat(dir, file)
	if err != nil {
		return nil, err
	}
	if info.Size() > FileBytesMax {
		return nil, fmt.Errorf("%d bytes, more than %d", info.Size(), FileBytesMax)
	}
	text, err := fs.ReadFile(dir, file)
	if err != nil {
		return nil, err
	}
	return parsePair(name, text)
}

func parsePair(name string, text []byte) (*Pair, error) {
	depth := 0
	for _, c := range text {
		switch c {
		case '{', '[':
			if depth++; depth > depthMax {
				return nil, fmt.Errorf("nested deeper than %d levels", depthMax)
			}
		case '}', ']':
			depth = max(0, depth-1)
		}
	}
	p := &Pair{Name: name}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if p.Operation == "" {
		p.Operation = name
	}
	q := &p.Request
	switch {
	case !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, q.Method):
		return nil, errors.New("request.method is GET, POST, PUT, PATCH or DELETE")
	case !strings.HasPrefix(q.Path, "/") || strings.HasPrefix(q.Path, "//") || strings.ContainsAny(q.Path, " #\r\n"):
		return nil, errors.New("request.path begins with one / and holds no space and no #")
	case q.Method == http.MethodGet && q.Body != nil:
		return nil, errors.New("a GET has no body")
	case !p.Writes && (q.Method == http.MethodPut || q.Method == http.MethodPatch || q.Method == http.MethodDelete):
		return nil, fmt.Errorf("a %s writes: say writes: true", q.Method)
	case p.SandboxOnly && !p.Writes:
		return nil, errors.New("sandbox_only is for pairs that write")
	case p.Status != 0 && (p.Status < 100 || p.Status > 599), p.Status == 0 && p.Answer != nil:
		return nil, errors.New("status is 100 to 599, and recorded together with the answer")
	}
	for k, v := range q.Headers {
		if strings.EqualFold(k, "Authorization") || strings.EqualFold(k, "Cookie") {
			return nil, fmt.Errorf("the header %s is a credential: it belongs to the secrets", k)
		}
		if strings.ContainsAny(k+v, "\r\n") {
			return nil, errors.New("a header holds a line break")
		}
	}
	return p, nil
}

// references are the placeholders that name earlier answers.
func (q *Request) references() []string {
	var out []string
	q.texts(func(s string) {
		for _, m := range placeholder.FindAllStringSubmatch(s, -1) {
			if m[1] != "reference" {
				out = append(out, m[1])
			}
		}
	})
	return out
}

func (q *Request) texts(each func(string)) {
	each(q.Path)
	for _, v := range q.Headers {
		each(v)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			each(v)
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(q.Body)
}
