package profile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds of a profile file. The largest embedded profile has some 15 KiB.
const (
	// FileBytesMax is the largest profile file that is read.
	FileBytesMax = 256 << 10
	// depthMax bounds nesting: the YAML parser recurses, and a stack that overflows cannot be recovered.
	depthMax = 64
)

// A pos is where something stands in a profile file.
type pos struct {
	line, column int
	path         string
}

// A node is a YAML value with the path that leads to it.
type node struct {
	ast.Node
	path string
}

// reader walks a profile's syntax tree and collects what is wrong with it. It reads every value itself, so that
// each error has the position of the value and not of what contains it.
type reader struct {
	file string
	errs Errors
	// visit is told the known keys of each mapping that is read, nil but in tests.
	visit func(path string, known []string)
	// visitWord is told the known words of each value that is one of several, nil but in tests.
	visitWord func(path string, known []string)
}

func (r *reader) at(p pos, hint, format string, args ...any) {
	if len(r.errs) < ErrorsMax {
		r.errs = append(r.errs, &Error{File: r.file, Line: p.line, Column: p.column, Path: p.path, Why: fmt.Sprintf(format, args...), Hint: hint})
	}
}

func (r *reader) errorf(n node, hint, format string, args ...any) {
	r.at(n.pos(), hint, format, args...)
}

// pos is where the value begins; for a mapping that is its first key.
func (n node) pos() pos {
	p := pos{path: n.path}
	x := n.Node
	if m, ok := x.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		x = m.Values[0].Key
	}
	if v, ok := x.(*ast.MappingValueNode); ok {
		x = v.Key
	}
	if x == nil {
		return p
	}
	if t := x.GetToken(); t != nil && t.Position != nil {
		p.line, p.column = t.Position.Line, t.Position.Column
	}
	return p
}

// kindName is what a person calls the value.
func kindName(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode:
		return "an integer"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tag"
	default:
		return "a " + strings.ToLower(n.Type().String())
	}
}

// An entry is one key of a mapping.
type entry struct {
	key   string
	at    pos // of the key
	value node
}

// entries lists a mapping's keys in file order. A key that stands there twice is an error, since which of them
// counts would be a guess.
func (r *reader) entries(n node) []entry {
	var values []*ast.MappingValueNode
	switch m := n.Node.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		r.errorf(n, "", "expected a mapping, found %s", kindName(n.Node))
		return nil
	}
	out := make([]entry, 0, len(values))
	for _, v := range values {
		e := entry{at: pos{path: n.path}}
		key, ok := ast.Node(v.Key), false
		if t := key.GetToken(); t != nil {
			e.key, ok = t.Value, true
			if t.Position != nil {
				e.at.line, e.at.column = t.Position.Line, t.Position.Column
			}
		}
		switch key.(type) {
		case *ast.MergeKeyNode, *ast.AnchorNode, *ast.AliasNode, *ast.MappingKeyNode, *ast.TagNode:
			ok = false
		}
		if !ok {
			r.at(e.at, "write the keys out; steps and verdicts can be shared by name", "anchors, aliases, tags and merge keys are not used in profiles")
			continue
		}
		e.at.path = join(n.path, e.key)
		if slices.ContainsFunc(out, func(o entry) bool { return o.key == e.key }) {
			r.at(e.at, "remove one of them", "the key stands here twice")
			continue
		}
		e.value = node{Node: v.Value, path: e.at.path}
		out = append(out, e)
	}
	return out
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fields reads a mapping whose keys are all known.
func (r *reader) fields(n node, known map[string]func(node)) {
	if r.visit != nil {
		r.visit(n.path, slices.Sorted(maps.Keys(known)))
	}
	for _, e := range r.entries(n) {
		read := known[e.key]
		if read == nil {
			names := make([]string, 0, len(known))
			for k := range known {
				names = append(names, k)
			}
			slices.Sort(names)
			r.at(e.at, meant(e.key, names), "unknown key %q", clip(e.key))
			continue
		}
		read(e.value)
	}
}

// clip bounds what an error repeats of a file.
func clip(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}

// list reads a sequence, item by item.
func (r *reader) list(n node, item func(node)) {
	s, ok := n.Node.(*ast.SequenceNode)
	if !ok {
		r.errorf(n, "a list is written - a on lines of its own, or [a, b]", "expected a list, found %s", kindName(n.Node))
		return
	}
	for i, v := range s.Values {
		item(node{Node: v, path: fmt.Sprintf("%s[%d]", n.path, i)})
	}
}

// text reads a text, which must not be empty.
func (r *reader) text(n node) string {
	s, ok := "", false
	switch v := n.Node.(type) {
	case *ast.StringNode:
		s, ok = v.Value, true
	case *ast.LiteralNode:
		s, ok = strings.TrimSpace(v.Value.Value), true
	}
	if !ok {
		r.errorf(n, "put it in quotes if it is meant as text", "expected a text, found %s", kindName(n.Node))
		return ""
	}
	if s == "" {
		r.errorf(n, "leave the key out", "must not be empty")
	}
	return s
}

// word reads a text of [a-z0-9_], the form of every name that shows up in keys, metrics and reasons.
func (r *reader) word(n node) string {
	s := r.text(n)
	if s != "" && !isWord(s) {
		r.errorf(n, "names are lower-case words joined by _, at most 64 characters", "%q is not a name", clip(s))
	}
	return s
}

func isWord(s string) bool {
	if s == "" || len(s) > 64 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

func (r *reader) words(n node) []string {
	var out []string
	r.list(n, func(n node) { out = append(out, r.word(n)) })
	return out
}

func (r *reader) oneOf(n node, known ...string) string {
	if r.visitWord != nil {
		r.visitWord(n.path, known)
	}
	s := r.text(n)
	if s != "" && !slices.Contains(known, s) {
		r.errorf(n, meant(s, known), "%q is none of the values that are possible here", clip(s))
	}
	return s
}

func (r *reader) boolean(n node) bool {
	b, ok := n.Node.(*ast.BoolNode)
	if !ok {
		r.errorf(n, "write true or false", "expected a boolean, found %s", kindName(n.Node))
		return false
	}
	return b.Value
}

// integer reads an integer within [lo, hi].
func (r *reader) integer(n node, lo, hi int64) int64 {
	i, ok := n.Node.(*ast.IntegerNode)
	if !ok {
		r.errorf(n, "", "expected an integer, found %s", kindName(n.Node))
		return lo
	}
	v, err := strconv.ParseInt(strings.ReplaceAll(i.GetToken().Value, "_", ""), 0, 64)
	if err != nil || v < lo || v > hi {
		r.errorf(n, "", "expected an integer from %d to %d", lo, hi)
		return lo
	}
	return v
}

// duration reads a Go duration within [lo, hi].
func (r *reader) duration(n node, lo, hi time.Duration) time.Duration {
	s, ok := n.Node.(*ast.StringNode)
	if !ok {
		r.errorf(n, "durations carry a unit: 500ms, 30s, 10m, 24h", "expected a duration, found %s", kindName(n.Node))
		return lo
	}
	d, err := time.ParseDuration(s.Value)
	if err != nil {
		r.errorf(n, "durations are written 500ms, 30s, 10m, 24h", "%q is not a duration", clip(s.Value))
		return lo
	}
	if d < lo || d > hi {
		r.errorf(n, "", "expected a duration from %v to %v", lo, hi)
		return lo
	}
	return d
}

// A source is the text of a CEL expression and where it stands.
type source struct {
	text string
	at   pos
	// inline: the text stands in the file character by character, so a column within it is a column in the file.
	inline bool
}

// expr reads a CEL expression. Scalars that YAML reads as something else (true, 5) are expressions too.
func (r *reader) expr(n node) source {
	s := source{at: n.pos()}
	switch v := n.Node.(type) {
	case *ast.StringNode:
		s.text = v.Value
		t := v.GetToken()
		origin := strings.TrimSpace(t.Origin)
		switch {
		case origin == v.Value:
			s.inline = true
		case len(origin) == len(v.Value)+2 && origin[1:len(origin)-1] == v.Value:
			s.inline = true
			s.at.column++
		}
	case *ast.LiteralNode:
		s.text = strings.TrimSpace(v.Value.Value)
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		s.text, s.inline = n.Node.GetToken().Value, true
	default:
		r.errorf(n, "an expression is text, for example event.email", "expected a CEL expression, found %s", kindName(n.Node))
		return s
	}
	if strings.TrimSpace(s.text) == "" {
		r.errorf(n, "", "the expression is empty")
	}
	return s
}

// parseYAML is the syntax tree of the one document in text.
func parseYAML(file string, text []byte) (n node, err error) {
	whole := func(why, hint string) error { return Errors{{File: file, Why: why, Hint: hint}} }
	if len(text) > FileBytesMax {
		return node{}, whole(fmt.Sprintf("the file has %d bytes, more than %d", len(text), FileBytesMax), "split it: a profile holds one vendor")
	}
	if tooDeep(text) {
		return node{}, whole(fmt.Sprintf("nested deeper than %d levels", depthMax), "a profile needs no such depth")
	}
	// The YAML parser is not ours: an input that makes it panic is a bad file, not a crash of Weir.
	defer func() {
		if p := recover(); p != nil {
			err = whole("not readable as YAML", "check indentation and quotes")
		}
	}()
	f, perr := parser.ParseBytes(text, 0)
	if perr != nil {
		e := &Error{File: file, Why: "not readable as YAML", Hint: "check indentation and quotes"}
		var syn *yaml.SyntaxError
		var dup *yaml.DuplicateKeyError
		switch {
		case errors.As(perr, &syn):
			e.Why = "YAML: " + syn.Message
			if t := syn.Token; t != nil && t.Position != nil {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
		case errors.As(perr, &dup):
			e.Why, e.Hint = "YAML: "+dup.Message, "remove one of them"
			if t := dup.Token; t != nil && t.Position != nil {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
		}
		return node{}, Errors{e}
	}
	var body []ast.Node
	for _, d := range f.Docs {
		if d.Body != nil {
			if _, comment := d.Body.(*ast.CommentGroupNode); !comment {
				body = append(body, d.Body)
			}
		}
	}
	switch len(body) {
	case 0:
		return node{}, whole("the file is empty", "a profile begins with profile: <name>")
	case 1:
		return node{Node: body[0]}, nil
	default:
		p := node{Node: body[1]}.pos()
		return node{}, Errors{{File: file, Line: p.line, Column: p.column, Why: "a second YAML document", Hint: "one file holds one profile"}}
	}
}

// tooDeep reports whether text may nest deeper than depthMax: flow brackets, or block indicators on one line, or
// indentation. It errs on the side of refusing.
func tooDeep(text []byte) bool {
	depth := 0
	for _, c := range text {
		switch c {
		case '[', '{':
			if depth++; depth > depthMax {
				return true
			}
		case ']', '}':
			depth = max(0, depth-1)
		}
	}
	for line := range bytes.Lines(text) {
		indent, marks := 0, 0
		for _, c := range line {
			if c == '-' || c == '?' || c == ':' {
				marks++
			} else if c != ' ' && c != '\t' {
				break
			}
			indent++
		}
		if indent > 4*depthMax || marks > depthMax {
			return true
		}
	}
	return false
}
