package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Kind is the kind of an Avro type.
type Kind string

// The kinds, spelled as Avro spells them.
const (
	Null       Kind = "null"
	Boolean    Kind = "boolean"
	Int        Kind = "int"
	Long       Kind = "long"
	Float      Kind = "float"
	Double     Kind = "double"
	Bytes      Kind = "bytes"
	String     Kind = "string"
	RecordKind Kind = "record" // schema.Record is the Kafka record
	Enum       Kind = "enum"
	Array      Kind = "array"
	Map        Kind = "map"
	Union      Kind = "union"
	Fixed      Kind = "fixed"
)

// Logical types that the projection knows. Others are kept in Type.LogicalType and otherwise ignored, as the
// specification asks for.
const (
	Date            = "date"             // int: Fields hold "2006-01-02"
	TimestampMillis = "timestamp-millis" // long: time.Time in UTC
	TimestampMicros = "timestamp-micros" // long: time.Time in UTC
	TimestampNanos  = "timestamp-nanos"  // long: time.Time in UTC
	Decimal         = "decimal"          // bytes or fixed: the exact decimal as a string, "-12.30"
)

// TagPII marks fields with personal data in "confluent:tags".
const TagPII = "PII"

// Bounds of a schema text. A registry is outside, so what it answers is bounded too (promise 6). The canonical
// schemas are below 8 KiB, 4 levels and 40 types.
const (
	schemaBytesMax  = 1 << 20
	schemaDepthMax  = 64
	schemaTypesMax  = 10_000
	precisionMax    = 1_000 // digits of a decimal
	enumSymbolsMax  = 10_000
	fixedBytesMax   = 1 << 30
	resolveCallsMax = 200_000 // of one pair of schemas; a pair of canonical ones needs about 60
	defaultDepthMax = schemaDepthMax
	recursionMax    = 64 // levels of nesting in a value
	idCharactersMax = 255
)

// A Type is an Avro schema, parsed. It is read only once Parse has returned it. A recursive schema is a cycle of
// pointers: whoever walks it must remember the named types that it has seen.
type Type struct {
	Kind    Kind
	Name    string   // full name of a record, enum or fixed
	Aliases []string // full names
	Doc     string

	Fields     []*Field // record
	Items      *Type    // array
	Values     *Type    // map
	Branches   []*Type  // union, in order
	Symbols    []string // enum
	Default    string   // enum: read in the place of symbols that are not known
	HasDefault bool     // enum
	Size       int      // fixed: bytes

	LogicalType string // as written; "" if there is none or it does not fit the kind
	Precision   int    // decimal: digits
	Scale       int    // decimal: digits after the point

	// Props are all further attributes, numbers as json.Number.
	Props map[string]any

	index map[string]int // record: field name to position
}

// A Field is one field of a record.
type Field struct {
	Name       string
	Aliases    []string
	Doc        string
	Type       *Type
	Default    any // JSON form as written, numbers as json.Number; see HasDefault
	HasDefault bool
	Props      map[string]any // all further attributes, numbers as json.Number
}

// Field returns the field of that name of a record, nil if there is none.
func (t *Type) Field(name string) *Field {
	if i, ok := t.index[name]; ok {
		return t.Fields[i]
	}
	return nil
}

// Nullable returns T and true for a union of null and one other type T, else t itself and false.
func (t *Type) Nullable() (*Type, bool) {
	if t.Kind == Union && len(t.Branches) == 2 {
		if t.Branches[0].Kind == Null && t.Branches[1].Kind != Null {
			return t.Branches[1], true
		}
		if t.Branches[1].Kind == Null && t.Branches[0].Kind != Null {
			return t.Branches[0], true
		}
	}
	return t, false
}

// ShortName is the name without its namespace.
func (t *Type) ShortName() string { return t.Name[strings.LastIndexByte(t.Name, '.')+1:] }

// Tags are the field's "confluent:tags", nil if there are none.
func (f *Field) Tags() []string {
	list, _ := f.Props["confluent:tags"].([]any)
	var tags []string
	for _, x := range list {
		if s, ok := x.(string); ok {
			tags = append(tags, s)
		}
	}
	return tags
}

// PII reports whether the field is tagged as personal data. The tag covers everything below the field.
func (f *Field) PII() bool {
	list, _ := f.Props["confluent:tags"].([]any)
	return slices.Contains(list, any(TagPII))
}

// String is the type in Avro's words, for messages: a name for named types.
func (t *Type) String() string {
	switch t.Kind {
	case RecordKind, Enum, Fixed:
		return string(t.Kind) + " " + t.Name
	case Array:
		return "array of " + t.Items.String()
	case Map:
		return "map of " + t.Values.String()
	case Union:
		names := make([]string, len(t.Branches))
		for i, b := range t.Branches {
			names[i] = b.String()
		}
		return "union of " + strings.Join(names, ", ")
	}
	if t.LogicalType != "" {
		return string(t.Kind) + " (" + t.LogicalType + ")"
	}
	return string(t.Kind)
}

// Parse reads an Avro schema in JSON. Types of known, and all named types inside them, may be referred to by name
// (a registry's schema references). Defaults of fields are kept but not checked: a writer's defaults do not
// matter, and NewSet checks those of reader schemas. A logical type that does not fit its kind is dropped, as the
// specification asks for. Bounds: 1 MiB of text, 64 levels, 10,000 types.
func Parse(text []byte, known ...*Type) (*Type, error) {
	if len(text) > schemaBytesMax {
		return nil, fmt.Errorf("avro schema of %d bytes: at most %d are read", len(text), schemaBytesMax)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("avro schema is not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("avro schema: text after the end of the JSON value")
	}
	p := &parser{named: map[string]*Type{}}
	for _, k := range known {
		p.learn(k)
	}
	return p.parse(v, "", 0)
}

type parser struct {
	named map[string]*Type
	types int
}

func (p *parser) learn(t *Type) {
	switch t.Kind {
	case RecordKind, Enum, Fixed:
		if p.named[t.Name] != nil {
			return
		}
		p.named[t.Name] = t
	}
	for _, f := range t.Fields {
		p.learn(f.Type)
	}
	for _, b := range t.Branches {
		p.learn(b)
	}
	if t.Items != nil {
		p.learn(t.Items)
	}
	if t.Values != nil {
		p.learn(t.Values)
	}
}

func primitive(name string) bool {
	switch Kind(name) {
	case Null, Boolean, Int, Long, Float, Double, Bytes, String:
		return true
	}
	return false
}

func (p *parser) parse(v any, ns string, depth int) (*Type, error) {
	p.types++
	if depth > schemaDepthMax {
		return nil, fmt.Errorf("avro schema is nested deeper than %d levels", schemaDepthMax)
	}
	if p.types > schemaTypesMax {
		return nil, fmt.Errorf("avro schema has more than %d types", schemaTypesMax)
	}
	switch v := v.(type) {
	case string:
		if primitive(v) {
			return &Type{Kind: Kind(v)}, nil
		}
		if t := p.lookup(v, ns); t != nil {
			return t, nil
		}
		return nil, fmt.Errorf("avro schema: unknown type %.100q", v)
	case []any:
		return p.union(v, ns, depth)
	case map[string]any:
		return p.object(v, ns, depth)
	}
	return nil, fmt.Errorf("avro schema: want a type name, an object or an array, got %s", jsonKind(v))
}

func (p *parser) lookup(name, ns string) *Type {
	if !strings.Contains(name, ".") && ns != "" {
		if t := p.named[ns+"."+name]; t != nil {
			return t
		}
	}
	return p.named[name]
}

func (p *parser) union(list []any, ns string, depth int) (*Type, error) {
	t := &Type{Kind: Union}
	seen := map[string]bool{}
	for _, x := range list {
		b, err := p.parse(x, ns, depth+1)
		if err != nil {
			return nil, err
		}
		if b.Kind == Union {
			return nil, errors.New("avro schema: a union directly inside a union")
		}
		id := string(b.Kind)
		if b.Name != "" {
			id = b.Name
		}
		if seen[id] {
			return nil, fmt.Errorf("avro schema: %s twice in one union", id)
		}
		seen[id] = true
		t.Branches = append(t.Branches, b)
	}
	if len(t.Branches) == 0 {
		return nil, errors.New("avro schema: a union without types")
	}
	return t, nil
}

func (p *parser) object(m map[string]any, ns string, depth int) (*Type, error) {
	kind, ok := m["type"].(string)
	if !ok {
		switch m["type"].(type) {
		case map[string]any, []any: // {"type": {"type": "string"}}: Java reads it, so do we
			return p.parse(m["type"], ns, depth+1)
		}
		return nil, errors.New("avro schema: an object without type")
	}
	if kind == "error" { // of protocols: a record by another name
		kind = string(RecordKind)
	}
	t := &Type{Kind: Kind(kind)}
	t.Doc, _ = m["doc"].(string)
	var err error
	var own []string // attributes that are no properties
	switch t.Kind {
	case Null, Boolean, Int, Long, Float, Double, Bytes, String:
		own = []string{"type"}
	case Array:
		own = []string{"type", "items"}
		if t.Items, err = p.child(m, "items", ns, depth); err != nil {
			return nil, err
		}
	case Map:
		own = []string{"type", "values"}
		if t.Values, err = p.child(m, "values", ns, depth); err != nil {
			return nil, err
		}
	case RecordKind, Enum, Fixed:
		own = []string{"type", "name", "namespace", "aliases", "doc"}
		if ns, err = p.name(t, m, ns); err != nil {
			return nil, err
		}
		switch t.Kind {
		case RecordKind:
			own = append(own, "fields")
			err = p.fields(t, m, ns, depth)
		case Enum:
			own = append(own, "symbols", "default")
			err = symbols(t, m)
		case Fixed:
			own = append(own, "size")
			err = size(t, m)
		}
		if err != nil {
			return nil, err
		}
	default:
		if ref := p.lookup(kind, ns); ref != nil {
			return ref, nil // {"type": "Name"}
		}
		return nil, fmt.Errorf("avro schema: unknown type %.100q", kind)
	}
	logical(t, m)
	t.Props = props(m, own)
	return t, nil
}

func (p *parser) child(m map[string]any, attr, ns string, depth int) (*Type, error) {
	v, ok := m[attr]
	if !ok {
		return nil, fmt.Errorf("avro schema: %s without %s", m["type"], attr)
	}
	return p.parse(v, ns, depth+1)
}

// name sets name and aliases of t, makes it known and returns the namespace in which its parts are resolved.
func (p *parser) name(t *Type, m map[string]any, enclosing string) (string, error) {
	name, _ := m["name"].(string)
	if name == "" {
		return "", fmt.Errorf("avro schema: a %s without a name", t.Kind)
	}
	ns := enclosing
	if x, ok := m["namespace"]; ok {
		s, ok := x.(string)
		if !ok {
			return "", fmt.Errorf("avro schema: namespace of %.100q is not a string", name)
		}
		ns = s
	}
	t.Name, ns = fullName(name, ns)
	for part := range strings.SplitSeq(t.Name, ".") {
		if !validName(part) {
			return "", fmt.Errorf("avro schema: %.100q is not an Avro name", t.Name)
		}
	}
	if primitive(t.Name) {
		return "", fmt.Errorf("avro schema: a %s may not be named %s", t.Kind, t.Name)
	}
	if p.named[t.Name] != nil {
		return "", fmt.Errorf("avro schema: %s is defined twice", t.Name)
	}
	aliases, err := strs(m, "aliases")
	if err != nil {
		return "", fmt.Errorf("avro schema: %s: %w", t.Name, err)
	}
	for _, a := range aliases {
		full, _ := fullName(a, ns)
		t.Aliases = append(t.Aliases, full)
	}
	p.named[t.Name] = t // before its fields: it may be recursive
	return ns, nil
}

func fullName(name, ns string) (full, namespace string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name, name[:i]
	}
	if ns == "" {
		return name, ""
	}
	return ns + "." + name, ns
}

func (p *parser) fields(t *Type, m map[string]any, ns string, depth int) error {
	list, ok := m["fields"].([]any)
	if !ok {
		return fmt.Errorf("avro schema: record %s without fields", t.Name)
	}
	t.index = make(map[string]int, len(list))
	for i, x := range list {
		fm, ok := x.(map[string]any)
		if !ok {
			return fmt.Errorf("avro schema: field %d of %s is not an object", i+1, t.Name)
		}
		f := &Field{}
		f.Name, _ = fm["name"].(string)
		if !validName(f.Name) {
			return fmt.Errorf("avro schema: field %d of %s: %.100q is not an Avro name", i+1, t.Name, f.Name)
		}
		if _, twice := t.index[f.Name]; twice {
			return fmt.Errorf("avro schema: %s has the field %s twice", t.Name, f.Name)
		}
		raw, ok := fm["type"]
		if !ok {
			return fmt.Errorf("avro schema: %s.%s has no type", t.Name, f.Name)
		}
		own := []string{"name", "type", "aliases", "doc", "default", "order"}
		var err error
		if kind, isName := raw.(string); isName && !primitive(kind) && p.lookup(kind, ns) == nil && (fm["items"] != nil || fm["values"] != nil) {
			// {"name": "x", "type": "array", "items": ...}: not of the specification, yet seen in the wild and read
			// by goavro.
			f.Type, err = p.parse(map[string]any{"type": kind, "items": fm["items"], "values": fm["values"]}, ns, depth+1)
			own = append(own, "items", "values")
		} else {
			f.Type, err = p.parse(raw, ns, depth+1)
		}
		if err != nil {
			return fmt.Errorf("%s.%s: %w", t.ShortName(), f.Name, err)
		}
		if f.Aliases, err = strs(fm, "aliases"); err != nil {
			return fmt.Errorf("avro schema: %s.%s: %w", t.Name, f.Name, err)
		}
		f.Doc, _ = fm["doc"].(string)
		f.Default, f.HasDefault = fm["default"]
		f.Props = props(fm, own)
		t.index[f.Name] = i
		t.Fields = append(t.Fields, f)
	}
	return nil
}

func symbols(t *Type, m map[string]any) error {
	list, err := strs(m, "symbols")
	if err != nil {
		return fmt.Errorf("avro schema: enum %s: %w", t.Name, err)
	}
	if len(list) == 0 || len(list) > enumSymbolsMax {
		return fmt.Errorf("avro schema: enum %s has %d symbols, want 1 to %d", t.Name, len(list), enumSymbolsMax)
	}
	seen := make(map[string]bool, len(list))
	for _, s := range list {
		if !validName(s) || seen[s] {
			return fmt.Errorf("avro schema: enum %s: symbol %.100q is not an Avro name or there twice", t.Name, s)
		}
		seen[s] = true
	}
	t.Symbols = list
	if d, ok := m["default"]; ok {
		s, isString := d.(string)
		if !isString || !seen[s] {
			return fmt.Errorf("avro schema: enum %s: its default is none of its symbols", t.Name)
		}
		t.Default, t.HasDefault = s, true
	}
	return nil
}

func size(t *Type, m map[string]any) error {
	n, ok := m["size"].(json.Number)
	if ok {
		if i, err := n.Int64(); err == nil && i >= 1 && i <= fixedBytesMax {
			t.Size = int(i)
			return nil
		}
	}
	return fmt.Errorf("avro schema: fixed %s: size is not an integer from 1 to %d", t.Name, fixedBytesMax)
}

// logical sets the logical type where it is valid for the kind.
func logical(t *Type, m map[string]any) {
	name, _ := m["logicalType"].(string)
	fits := false
	switch name {
	case Date, "time-millis":
		fits = t.Kind == Int
	case TimestampMillis, TimestampMicros, TimestampNanos, "time-micros",
		"local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos":
		fits = t.Kind == Long
	case "uuid":
		fits = t.Kind == String || t.Kind == Fixed && t.Size == 16
	case "duration":
		fits = t.Kind == Fixed && t.Size == 12
	case Decimal:
		precision, okP := smallInt(m["precision"])
		scale, okS := 0, true
		if x, there := m["scale"]; there {
			scale, okS = smallInt(x)
		}
		fits = (t.Kind == Bytes || t.Kind == Fixed) && okP && okS && precision >= 1 && precision <= precisionMax && scale <= precision
		if fits {
			t.Precision, t.Scale = precision, scale
		}
	}
	if fits {
		t.LogicalType = name
	}
}

func smallInt(v any) (int, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return int(i), err == nil && i >= 0 && i <= precisionMax
}

func strs(m map[string]any, attr string) ([]string, error) {
	v, ok := m[attr]
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is not an array", attr)
	}
	out := make([]string, 0, len(list))
	for _, x := range list {
		s, ok := x.(string)
		if !ok {
			return nil, fmt.Errorf("%s holds something that is not a string", attr)
		}
		out = append(out, s)
	}
	return out, nil
}

func props(m map[string]any, own []string) map[string]any {
	var out map[string]any
	for k, v := range m {
		if !slices.Contains(own, k) {
			if out == nil {
				out = map[string]any{}
			}
			out[k] = v
		}
	}
	return out
}

func validName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return true
}

// jsonKind names the kind of a decoded JSON value, never its content.
func jsonKind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number, float64, float32, int, int32, int64:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("a Go %T", v)
}
