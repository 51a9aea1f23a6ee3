package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

type position struct{ line, column int }

// A binder fills a Config from YAML and collects every problem, with its place. A value that is wrong stays
// zero, so that the rest of the file is still checked.
type binder struct {
	file, dir string
	getenv    func(string) string
	problems  []Problem
	fatal     bool // the file is no YAML at all
	at        map[string]position
	anchors   map[string]ast.Node
}

// depthMax bounds the nesting of aliases; the config's own types are five deep.
const depthMax = 32

// bind never panics: what the YAML parser panics at is a problem of the file.
func (b *binder) bind(data []byte, c *Config) {
	defer func() {
		if r := recover(); r != nil {
			b.fatal = true
			b.problems = append(b.problems, Problem{File: b.file, What: "not readable as YAML", Hint: "check the indentation, quotes and brackets"})
		}
	}()
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		b.fatal = true
		p := b.syntax(err)
		if line := lineOf(data, p.Line); strings.Contains(line[:len(line)-len(strings.TrimLeft(line, " \t"))], "\t") {
			p.What, p.Hint = "a tab indents this line, and YAML allows spaces alone", "use two spaces for each level"
		}
		b.problems = append(b.problems, p)
		return
	}
	var body ast.Node
	for _, doc := range f.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.DirectiveType {
			continue
		}
		if body != nil {
			b.fatal = true
			b.add(doc.Body, "", "a second YAML document", "keep one document: no --- inside the file")
			return
		}
		body = doc.Body
	}
	if body == nil {
		b.fatal = true
		b.problems = append(b.problems, Problem{File: b.file, What: "the file is empty", Hint: "it needs at least kafka.brokers and one connector"})
		return
	}
	b.anchors = map[string]ast.Node{}
	ast.Walk(anchorVisitor(b.anchors), body)
	b.value(body, "", reflect.ValueOf(c).Elem(), "", 0)
}

type anchorVisitor map[string]ast.Node

func (v anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		v[a.Name.GetToken().Value] = a.Value
	}
	return v
}

// syntax keeps the parser's message and place, not its excerpt of the file, which could show a secret.
func (b *binder) syntax(err error) Problem {
	p := Problem{File: b.file, What: "not readable as YAML", Hint: "check the indentation, quotes and brackets"}
	var ye yaml.Error
	if errors.As(err, &ye) {
		if strings.Contains(ye.GetMessage(), "already defined") {
			p.What, p.Hint = "the same key twice", "keep one of them"
		}
		if t := ye.GetToken(); t != nil && t.Position != nil {
			p.Line, p.Column = t.Position.Line, t.Position.Column
			if p.Hint == "keep one of them" && keyShown.MatchString(t.Value) {
				p.What = "the key " + t.Value + " stands here twice"
			}
		}
	}
	return p
}

// lineOf is one line of a file, from 1; "" if there is none.
func lineOf(data []byte, n int) string {
	lines := strings.SplitN(string(data), "\n", n+1)
	if n < 1 || n > len(lines) {
		return ""
	}
	return lines[n-1]
}

// keyShown is what a key must look like to be repeated in a message.
var keyShown = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,62}$`)

func (b *binder) add(n ast.Node, path, what, hint string) {
	p := Problem{File: b.file, Path: path, What: what, Hint: hint}
	pos := place(n)
	p.Line, p.Column = pos.line, pos.column
	b.problems = append(b.problems, p)
}

func place(n ast.Node) position {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && m.Values[0].Key != nil && !m.IsFlowStyle {
		n = m.Values[0].Key
	}
	if m, ok := n.(*ast.MappingValueNode); ok && m.Key != nil {
		n = m.Key
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return position{1, 1}
	}
	return position{n.GetToken().Position.Line, n.GetToken().Position.Column}
}

// deref follows anchors and aliases; nil if an alias leads nowhere, which it has reported.
func (b *binder) deref(n ast.Node, path string) ast.Node {
	for range depthMax {
		switch t := n.(type) {
		case *ast.AnchorNode:
			n = t.Value
		case *ast.AliasNode:
			v, ok := b.anchors[t.Value.GetToken().Value]
			if !ok {
				b.add(t, path, "the alias has no anchor", "define it with & first")
				return nil
			}
			n = v
		case *ast.TagNode:
			b.add(t, path, "YAML tags are not used here", "write the plain value")
			return nil
		default:
			return n
		}
	}
	b.add(n, path, "the alias leads to itself", "write the value out")
	return nil
}

var (
	sizeType     = reflect.TypeFor[Size]()
	durationType = reflect.TypeFor[Duration]()
	startType    = reflect.TypeFor[Start]()
	secretType   = reflect.TypeFor[Secret]()
)

// value binds a node to v. tag is that of the field that v is, for bounds.
func (b *binder) value(n ast.Node, path string, v reflect.Value, tag reflect.StructTag, depth int) {
	if depth > depthMax {
		b.add(n, path, "nested too deeply", "")
		return
	}
	if n = b.deref(n, path); n == nil {
		return
	}
	if _, null := n.(*ast.NullNode); null && v.Type() != secretType {
		if v.Kind() == reflect.Pointer && v.Type().Elem() != reflect.TypeFor[Connector]() {
			return // as if absent
		}
		b.add(n, path, "has no value", wantOf(v.Type(), tag))
		return
	}
	switch {
	case v.Kind() == reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		b.value(n, path, p.Elem(), tag, depth+1)
		v.Set(p)
	case v.Type() == secretType:
		b.secret(n, path, v)
	case v.Type() == sizeType, v.Type() == durationType, v.Type() == startType:
		b.unit(n, path, v, tag)
	case v.Kind() == reflect.Struct:
		b.structure(n, path, v, depth)
	case v.Kind() == reflect.Map:
		b.mapping(n, path, v, tag, depth)
	case v.Kind() == reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			b.wrongType(n, path, "a list")
			return
		}
		out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
		for i, e := range seq.Values {
			p := element(path, i)
			b.at[p] = place(e)
			b.value(e, p, out.Index(i), "", depth+1)
		}
		v.Set(out)
	case v.Kind() == reflect.Int:
		b.integer(n, path, v, tag)
	case v.Kind() == reflect.String:
		if s, ok := b.text(n, path, v.Type() == reflect.TypeFor[string]() && tag.Get("scalar") != ""); ok {
			v.SetString(s)
		}
	default:
		panic("config: no binding for " + v.Type().String())
	}
}

func (b *binder) entries(n ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	b.wrongType(n, path, "a mapping of keys to values")
	return nil, false
}

// key is the text of a mapping's key; false if it is none that this file may have, which it has reported.
func (b *binder) key(kv *ast.MappingValueNode, path string) (string, bool) {
	if _, ok := kv.Key.(*ast.MergeKeyNode); ok {
		b.add(kv.Key, path, "merge keys (<<) are not used here", "write the keys out, or use an alias for the whole value")
		return "", false
	}
	t := kv.Key.GetToken()
	if t == nil {
		b.add(kv.Key, path, "not a key", "use a plain word")
		return "", false
	}
	return t.Value, true
}

func (b *binder) structure(n ast.Node, path string, v reflect.Value, depth int) {
	kvs, ok := b.entries(n, path)
	if !ok {
		return
	}
	fields := fieldsOf(v.Type())
	for _, kv := range kvs {
		key, ok := b.key(kv, path)
		if !ok {
			continue
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			var names []string
			for _, f := range fields {
				names = append(names, f.key)
			}
			hint := "known here: " + strings.Join(names, ", ")
			if near := Nearest(key, names); near != "" {
				hint = "did you mean " + near + "?"
			}
			where := path
			if keyShown.MatchString(key) {
				where = join2(path, key)
			}
			b.add(kv.Key, where, "unknown key", hint)
			continue
		}
		p := join2(path, key)
		if _, twice := b.at[p]; twice && kv.Key.GetToken() != nil && b.at[p] != place(kv.Key) {
			b.add(kv.Key, p, "stands here twice", "keep one of them")
			continue
		}
		b.at[p] = place(kv.Key)
		b.value(kv.Value, p, v.Field(fields[i].index), fields[i].tag, depth+1)
	}
}

func (b *binder) mapping(n ast.Node, path string, v reflect.Value, tag reflect.StructTag, depth int) {
	kvs, ok := b.entries(n, path)
	if !ok {
		return
	}
	pattern := regexp.MustCompile(tag.Get("keypattern"))
	out := reflect.MakeMapWithSize(v.Type(), len(kvs))
	for _, kv := range kvs {
		key, ok := b.key(kv, path)
		if !ok {
			continue
		}
		if !pattern.MatchString(key) {
			what := "a key here is not " + tag.Get("keydesc")
			if keyShown.MatchString(key) {
				what = quote(key) + " is not " + tag.Get("keydesc")
			}
			b.add(kv.Key, path, what, "rename it")
			continue
		}
		p := join2(path, key)
		b.at[p] = place(kv.Key)
		e := reflect.New(v.Type().Elem()).Elem()
		b.value(kv.Value, p, e, `scalar:"true"`, depth+1)
		out.SetMapIndex(reflect.ValueOf(key), e)
	}
	v.Set(out)
}

// join2 extends a path by one key.
func join2(path, key string) string {
	if path == "" {
		return join(key)
	}
	return path + "." + join(key)
}

// secret never repeats what stands there.
func (b *binder) secret(n ast.Node, path string, v reflect.Value) {
	if s, ok := n.(*ast.StringNode); ok {
		if ref, ok := NewSecret(s.Value, b.dir, b.getenv); ok {
			v.Set(reflect.ValueOf(ref))
			return
		}
	}
	b.add(n, path, "not a reference; a secret never stands in the file (its value is not repeated here)",
		`use "${env:NAME}" or "${file:/path}", and change the secret if the file was shared`)
}

// text is the string of a scalar. scalar allows numbers and booleans too, as they are written.
func (b *binder) text(n ast.Node, path string, scalar bool) (string, bool) {
	var s string
	if plain, ok := flowScalar(n); ok {
		return plain, true
	}
	switch t := n.(type) {
	case *ast.StringNode:
		s = t.Value
	case *ast.LiteralNode:
		s = t.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		if !scalar {
			b.add(n, path, "is a "+typeName(n)+", want text", "put it in quotes")
			return "", false
		}
		s = n.GetToken().Value
	default:
		b.wrongType(n, path, "text")
		return "", false
	}
	if strings.Contains(s, "${env:") || strings.Contains(s, "${file:") {
		b.add(n, path, "holds a reference, and references are for secrets alone", "write the value itself, or put it under secrets")
		return "", false
	}
	return s, true
}

// flowScalar undoes a fault of the YAML parser: inside a flow mapping it reads the list element localhost:9092 as
// the mapping {localhost: 9092}, where YAML 1.2 (section 7.3.3) sees one plain scalar, since no space follows
// the colon.
func flowScalar(n ast.Node) (string, bool) {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) == 1 && (m.Start == nil || m.Start.Value != "{") {
		n = m.Values[0]
	}
	kv, ok := n.(*ast.MappingValueNode)
	if !ok || kv.Key == nil || kv.Value == nil || kv.Start == nil {
		return "", false
	}
	key, value := kv.Key.GetToken(), kv.Value.GetToken()
	if key == nil || value == nil || key.Type != token.StringType || key.Position.Line != kv.Start.Position.Line ||
		key.Position.Column+utf8.RuneCountInString(key.Value) != kv.Start.Position.Column ||
		value.Position.Line != kv.Start.Position.Line || value.Position.Column != kv.Start.Position.Column+1 {
		return "", false
	}
	switch kv.Value.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		if value.Type != token.SingleQuoteType && value.Type != token.DoubleQuoteType {
			return key.Value + ":" + value.Value, true
		}
	}
	return "", false
}

func (b *binder) integer(n ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	t, ok := n.(*ast.IntegerNode)
	if !ok {
		b.add(n, path, "is "+article(typeName(n))+", want a whole number", wantOf(v.Type(), tag))
		return
	}
	var i int64
	switch x := t.Value.(type) {
	case int64:
		i = x
	case uint64:
		if x > 1<<62 {
			x = 1 << 62
		}
		i = int64(x)
	}
	if what := outside(v.Type(), i, tag); what != "" {
		b.add(n, path, what, wantOf(v.Type(), tag))
		return
	}
	v.SetInt(i)
}

// unit binds sizes, durations and starts.
func (b *binder) unit(n ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	var s string
	switch t := n.(type) {
	case *ast.StringNode:
		s = t.Value
	case *ast.IntegerNode, *ast.FloatNode:
		b.add(n, path, "is a number without a unit", wantOf(v.Type(), tag))
		return
	default:
		b.add(n, path, "is "+article(typeName(n)), wantOf(v.Type(), tag))
		return
	}
	var i int64
	ok := false
	switch v.Type() {
	case sizeType:
		var x Size
		x, ok = ParseSize(s)
		i = int64(x)
	case durationType:
		var x Duration
		x, ok = ParseDuration(s)
		i = int64(x)
	case startType:
		var x Start
		if x, ok = ParseStart(s); ok {
			v.Set(reflect.ValueOf(x))
			return
		}
	}
	if !ok {
		b.add(n, path, quote(s)+" is not "+article(typeWord(v.Type())), wantOf(v.Type(), tag))
		return
	}
	if what := outside(v.Type(), i, tag); what != "" {
		b.add(n, path, what, wantOf(v.Type(), tag))
		return
	}
	v.SetInt(i)
}

func (b *binder) wrongType(n ast.Node, path, want string) {
	b.add(n, path, "is "+article(typeName(n))+", want "+want, "")
}

func typeName(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "mapping"
	case *ast.SequenceNode:
		return "list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "number"
	case *ast.BoolNode:
		return "boolean"
	case *ast.NullNode:
		return "nothing"
	}
	return "something else"
}

func article(noun string) string {
	switch noun {
	case "text", "nothing", "something else":
		return noun
	}
	return "a " + noun
}

func typeWord(t reflect.Type) string {
	switch t {
	case sizeType:
		return "size"
	case durationType:
		return "duration"
	case startType:
		return "start"
	case secretType:
		return "reference"
	}
	switch t.Kind() {
	case reflect.Int:
		return "whole number"
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return "mapping"
	}
	return "text"
}

// wantOf says what a field takes.
func wantOf(t reflect.Type, tag reflect.StructTag) string {
	lo, hi := tag.Get("min"), tag.Get("max")
	span := ""
	if lo != "" || hi != "" {
		span = fmt.Sprintf(", from %s to %s", lo, hi)
	}
	switch t {
	case sizeType:
		return "use a size with a unit" + span + ", such as 64MiB"
	case durationType:
		return "use a duration with a unit" + span + ", such as 30s"
	case startType:
		return "use earliest, latest or a time such as 2026-01-31T00:00:00Z"
	}
	if e := tag.Get("enum"); e != "" {
		return "use one of " + strings.ReplaceAll(e, ",", ", ")
	}
	if t.Kind() == reflect.Int {
		return "use a whole number" + span
	}
	return "give " + article(typeWord(t)) + ", or remove the key"
}

// outside says that a number is not within the bounds of its field, "" if it is.
func outside(t reflect.Type, i int64, tag reflect.StructTag) string {
	lo, hi := bound(t, tag.Get("min")), bound(t, tag.Get("max"))
	if lo == nil || hi == nil || i >= *lo && i <= *hi {
		return ""
	}
	if i < *lo {
		return show(t, i) + " is too small"
	}
	return show(t, i) + " is too large"
}

func show(t reflect.Type, i int64) string {
	switch t {
	case sizeType:
		return Size(i).String()
	case durationType:
		return Duration(i).String()
	}
	return strconv.FormatInt(i, 10)
}

// bound reads a min, max or default tag; nil if there is none.
func bound(t reflect.Type, s string) *int64 {
	if s == "" {
		return nil
	}
	var i int64
	ok := true
	switch t {
	case sizeType:
		var x Size
		x, ok = ParseSize(s)
		i = int64(x)
	case durationType:
		var x Duration
		x, ok = ParseDuration(s)
		i = int64(x)
	default:
		var err error
		i, err = strconv.ParseInt(s, 10, 64)
		ok = err == nil
	}
	if !ok {
		panic("config: tag " + strconv.Quote(s) + " is no " + typeWord(t))
	}
	return &i
}

// A field is one key of a struct.
type field struct {
	key   string
	index int
	tag   reflect.StructTag
}

func fieldsOf(t reflect.Type) []field {
	var fs []field
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && f.IsExported() {
			fs = append(fs, field{name, i, f.Tag})
		}
	}
	return fs
}
