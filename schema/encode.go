package schema

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// problemsMax bounds the problems that one EncodeError lists; the rest is counted.
const problemsMax = 20

// A FieldProblem says what is wrong with one field that was to be encoded.
type FieldProblem struct {
	Path string // line_items[2].quantity
	// Reason says what was expected and what was there. It shows the value of a field that is not personal data,
	// at most 40 characters of it.
	Reason string
}

func (p FieldProblem) String() string { return p.Path + ": " + p.Reason }

// An EncodeError says why fields are not a valid event. It is for those who wrote the fields.
type EncodeError struct {
	Entity   string
	Problems []FieldProblem // at most 20
	More     int            // how many further ones there are
}

func (e *EncodeError) Error() string {
	parts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		parts[i] = p.String()
	}
	s := e.Entity + " event: " + strings.Join(parts, "; ")
	if e.More > 0 {
		s += fmt.Sprintf("; and %d more", e.More)
	}
	return s
}

// Encode writes an event of an entity in the newest version of its schema, Confluent-framed with the built-in
// schema id. fields are an Event's Fields or decoded JSON (with json.Decoder.UseNumber: a float64 is refused for an
// integer, since its digits may be gone already). The forms of values:
//
//	int, long            json.Number without fraction or exponent, or any Go integer
//	float, double        json.Number, float or integer, if it is exact
//	timestamp            RFC 3339 text, or time.Time; no finer than the schema's unit
//	date                 "2006-01-02"
//	decimal              decimal text or json.Number; no finer than the schema's scale
//	bytes, fixed         base64 text, or []byte
//	enum                 one of the symbols
//
// A field may have the name that an older version gave it (an alias). Nothing is coerced or ignored: an unknown field,
// one given by two of its names, a missing one without default and any other form are a problem each. It does not check
// rules (Rules.Check does). Errors: *EncodeError, or a plain one for an unknown entity.
func (s *Set) Encode(entity string, fields map[string]any) ([]byte, error) {
	return s.EncodeVersion(entity, 0, fields)
}

// EncodeVersion is Encode in a version of the entity's schema that a publisher still writes, 0 for the newest. A version
// that the entity does not have is an error too.
func (s *Set) EncodeVersion(entity string, version int, fields map[string]any) ([]byte, error) {
	sch, err := s.reader(entity)
	if err != nil {
		return nil, err
	}
	if version < 0 || version > sch.Version {
		return nil, fmt.Errorf("%s has no schema version %d: known are 1 to %d", entity, version, sch.Version)
	}
	if version > 0 {
		sch = s.entities[entity][version-1] // versions have no holes
	}
	return sch.Encode(sch.ID, fields)
}

// EncodeWithID is Encode with the id that a registry gave the schema.
func (s *Set) EncodeWithID(entity string, id ID, fields map[string]any) ([]byte, error) {
	sch, err := s.reader(entity)
	if err != nil {
		return nil, err
	}
	return sch.Encode(id, fields)
}

// con// Encode writes fields in this schema's own version, Confluent-framed with an id, in the forms of Set.Encode. It may be
// any schema, not only that of an event.
func (s *Schema) Encode(id ID, fields map[string]any) ([]byte, error) {
	head := make([]byte, 5, 512)
	binary.BigEndian.PutUint32(head[1:], uint32(id))
	return s.encode(head, fields)
}

// EncodeSingleObject is Encode in Avro single-object encoding: 0xc3 0x01 and the schema's fingerprint.
func (s *Set) EncodeSingleObject(entity string, fields map[string]any) ([]byte, error) {
	sch, err := s.reader(entity)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 10, 512)
	head[0], head[1] = 0xc3, 1
	binary.LittleEndian.PutUint64(head[2:], sch.codec.fingerprint)
	return sch.encode(head, fields)
}

// KeyOf is the Kafka key of an event: the entity's id, of 1 to 255 characters.
func (s *Set) KeyOf(entity string, fields map[string]any) (string, error) {
	sch, err := s.reader(entity)
	if err != nil {
		return "", err
	}
	key, ok := fields[sch.IDField].(string)
	if !ok || !validID([]byte(key)) {
		return "", &EncodeError{Entity: entity, Problems: []FieldProblem{{sch.IDField, "want a text of 1 to 255 characters, it is the Kafka key"}}}
	}
	return key, nil
}

func (s *Schema) encode(head []byte, fields map[string]any) ([]byte, error) {
	e := &encoder{}
	var v any
	if fields != nil {
		v = fields
	}
	out := e.value(head, s.Type, v, "", false, 0)
	if len(e.problems) > 0 {
		return nil, &EncodeError{Entity: s.Entity, Problems: e.problems, More: e.more}
	}
	return out, nil
}

// An encoder appends values. After a problem it goes on, to find the others; its bytes are then worthless.
type encoder struct {
	problems []FieldProblem
	more     int
}

func (e *encoder) problem(path, format string, a ...any) {
	if len(e.problems) >= problemsMax {
		e.more++
		return
	}
	e.problems = append(e.problems, FieldProblem{path, fmt.Sprintf(format, a...)})
}

// got describes a value: its kind, and what it is if it is not personal data.
func got(v any, pii bool) string {
	switch v.(type) {
	case string, json.Number, bool, int, int32, int64, float64:
		if pii {
			return jsonKind(v)
		}
		var s string
		if t, ok := v.(string); ok {
			s = strconv.Quote(cut(t))
		} else {
			s = cut(fmt.Sprint(v))
		}
		if _, ok := v.(float64); ok {
			s += " as a float64 (decode JSON with UseNumber)"
		}
		return s
	}
	return jsonKind(v)
}

func cut(s string) string {
	const most = 40
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

func (e *encoder) value(b []byte, t *Type, v any, path string, pii bool, depth int) []byte {
	if depth > recursionMax {
		e.problem(path, "nested deeper than %d levels", recursionMax)
		return b
	}
	want := func(what string) []byte {
		e.problem(path, "want %s, got %s", what, got(v, pii))
		return b
	}
	switch t.Kind {
	case Null:
		if v == nil {
			return b
		}
		return want("null")
	case Boolean:
		x, ok := v.(bool)
		switch {
		case !ok:
			return want("true or false")
		case x:
			return append(b, 1)
		}
		return append(b, 0)
	case Int, Long:
		n, ok, what := integer(t, v)
		if !ok {
			return want(what)
		}
		if t.Kind == Int && n != int64(int32(n)) {
			return want("an integer of 32 bits")
		}
		return binary.AppendVarint(b, n)
	case Float:
		f, ok := float(v)
		if !ok || float64(float32(f)) != f && !math.IsNaN(f) {
			return want("a number that a float of 32 bits holds exactly")
		}
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(f)))
	case Double:
		f, ok := float(v)
		if !ok {
			return want("a number")
		}
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
	case String:
		s, ok := v.(string)
		if !ok {
			return want("a text")
		}
		if !utf8.ValidString(s) {
			e.problem(path, "the text is not UTF-8")
			return b
		}
		return append(binary.AppendVarint(b, int64(len(s))), s...)
	case Enum:
		if s, ok := v.(string); ok {
			if i := slices.Index(t.Symbols, s); i >= 0 {
				return binary.AppendVarint(b, int64(i))
			}
		}
		return want("one of " + strings.Join(t.Symbols, ", "))
	case Bytes, Fixed:
		raw, what := octets(t, v)
		if what != "" {
			return want(what)
		}
		if t.Kind == Bytes {
			b = binary.AppendVarint(b, int64(len(raw)))
		}
		return append(b, raw...)
	case Array:
		list, ok := v.([]any)
		if !ok {
			return want("a list")
		}
		if len(list) > 0 {
			b = binary.AppendVarint(b, int64(len(list)))
			for i, x := range list {
				b = e.value(b, t.Items, x, path+index(i), pii, depth+1)
			}
		}
		return append(b, 0)
	case Map:
		m, ok := v.(map[string]any)
		if !ok {
			return want("an object")
		}
		if len(m) > 0 {
			b = binary.AppendVarint(b, int64(len(m)))
			for i, k := range slices.Sorted(maps.Keys(m)) { // sorted: the same event has the same bytes
				at := join(path, k)
				if pii && !plainKey(k) {
					at = path + "{" + strconv.Itoa(i) + "}"
				}
				if !utf8.ValidString(k) {
					e.problem(path, "a key is not UTF-8")
				}
				b = append(binary.AppendVarint(b, int64(len(k))), k...)
				b = e.value(b, t.Values, m[k], at, pii, depth+1)
			}
		}
		return append(b, 0)
	case RecordKind:
		m, ok := v.(map[string]any)
		if !ok {
			return want("an object")
		}
		return e.record(b, t, m, path, pii, depth)
	case Union:
		return e.union(b, t, v, path, pii, depth)
	}
	return want("a value of another type")
}

func (e *encoder) record(b []byte, t *Type, m map[string]any, path string, pii bool, depth int) []byte {
	known := 0
	for _, f := range t.Fields {
		name := f.Name
		x, there := m[name]
		for _, a := range f.Aliases {
			y, old := m[a]
			switch {
			case !old || t.Field(a) != nil:
				continue
			case there:
				e.problem(join(path, a), "the same field as %s, which is there too", name)
			}
			name, x, there = a, y, true
		}
		at := join(path, name)
		if !there {
			if !f.HasDefault {
				e.problem(at, "missing, and the schema has no default for it")
				continue
			}
			d, err := defaultValue(f.Type, f.Default, 0)
			if err != nil {
				e.problem(at, "the schema's default does not fit: %v", err)
				continue
			}
			x = d
		} else {
			known++
		}
		b = e.value(b, f.Type, x, at, pii || f.PII(), depth+1)
	}
	if known < len(m) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !t.names(k) {
				e.problem(join(path, cut(strings.ToValidUTF8(k, "?"))), "unknown field: %s", near(t, k))
			}
		}
	}
	return b
}

// names reports whether a field of the record has this name or alias.
func (t *Type) names(k string) bool {
	return t.Field(k) != nil || slices.ContainsFunc(t.Fields, func(f *Field) bool { return slices.Contains(f.Aliases, k) })
}

// near names the field that was probably meant.
func near(t *Type, name string) string {
	best, at := "", 3 // at most two edits
	var names []string
	for _, f := range t.Fields {
		names = append(names, f.Name)
		if d := distance(name, f.Name); d < at {
			best, at = f.Name, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "known are " + strings.Join(names, ", ")
}

// distance is the number of edits from a to b; for long names, which nobody mistypes for a short one, a large number.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return math.MaxInt
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diag+cost)
			diag, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// union writes the first type that takes the value.
func (e *encoder) union(b []byte, t *Type, v any, path string, pii bool, depth int) []byte {
	if inner, ok := t.Nullable(); ok {
		null := slices.IndexFunc(t.Branches, func(x *Type) bool { return x.Kind == Null })
		if v == nil {
			return binary.AppendVarint(b, int64(null))
		}
		return e.value(binary.AppendVarint(b, int64(1-null)), inner, v, path, pii, depth+1)
	}
	for i, x := range t.Branches {
		trial := &encoder{}
		if out := trial.value(binary.AppendVarint(slices.Clip(b), int64(i)), x, v, path, pii, depth+1); len(trial.problems) == 0 {
			return out
		}
	}
	e.problem(path, "want one of %s, got %s", t, got(v, pii))
	return b
}

// integer reads an integer; what says what is wanted if it is none.
func integer(t *Type, v any) (n int64, ok bool, what string) {
	switch t.LogicalType {
	case Date:
		s, isText := v.(string)
		d, err := time.Parse(time.DateOnly, s)
		if !isText || err != nil || d.Year() < 1 {
			return 0, false, "a date like 2006-01-02"
		}
		return d.Unix() / (24 * 60 * 60), true, ""
	case TimestampMillis, TimestampMicros, TimestampNanos:
		return timestamp(t, v)
	}
	switch x := v.(type) {
	case json.Number:
		n, err := strconv.ParseInt(x.String(), 10, 64)
		return n, err == nil, "an integer of 64 bits"
	case int64:
		return x, true, ""
	case int:
		return int64(x), true, ""
	case int32:
		return int64(x), true, ""
	}
	return 0, false, "an integer"
}

func timestamp(t *Type, v any) (int64, bool, string) {
	var at time.Time
	switch x := v.(type) {
	case time.Time:
		at = x
	case string:
		var err error
		if at, err = time.Parse(time.RFC3339Nano, x); err != nil {
			return 0, false, "an RFC 3339 time like 2006-01-02T15:04:05Z"
		}
	default:
		return 0, false, "an RFC 3339 time like 2006-01-02T15:04:05Z"
	}
	unit, name := time.Millisecond, "millisecond"
	n := at.UnixMilli()
	switch t.LogicalType {
	case TimestampMicros:
		unit, name, n = time.Microsecond, "microsecond", at.UnixMicro()
	case TimestampNanos:
		unit, name, n = time.Nanosecond, "nanosecond", at.UnixNano()
		if !time.Unix(0, n).Equal(at) {
			return 0, false, "a time between the years 1678 and 2262"
		}
	}
	if at.Nanosecond()%int(unit) != 0 {
		return 0, false, "a time no finer than a " + name
	}
	if y := at.UTC().Year(); y < 1 || y > 9999 {
		return 0, false, "a time between the years 1 and 9999"
	}
	return n, true, ""
}

func float(v any) (float64, bool) {
	var n int64
	switch x := v.(type) {
	case float64:
		return x, true
	case float32:
		return float64(x), true
	case json.Number:
		f, err := x.Float64() // the nearest one: a decimal fraction has no exact double
		return f, err == nil
	case int64:
		n = x
	case int:
		n = int64(x)
	case int32:
		n = int64(x)
	default:
		return 0, false
	}
	f := float64(n)
	return f, f < 1<<63 && int64(f) == n // 1<<63 itself is no int64
}

// octets reads bytes or a decimal; what says what is wanted if it is neither.
func octets(t *Type, v any) (raw []byte, what string) {
	if t.LogicalType == Decimal {
		return decimalBytes(t, v)
	}
	switch x := v.(type) {
	case []byte:
		raw = x
	case string:
		var err error
		if raw, err = base64.StdEncoding.DecodeString(x); err != nil {
			return nil, "bytes as base64"
		}
	default:
		return nil, "bytes as base64"
	}
	if t.Kind == Fixed && len(raw) != t.Size {
		return nil, fmt.Sprintf("%d bytes", t.Size)
	}
	return raw, ""
}

// decimalBytes is the big-endian two's complement of the unscaled number.
func decimalBytes(t *Type, v any) ([]byte, string) {
	what := fmt.Sprintf("a decimal of at most %d digits, %d of them after the point, as text", t.Precision, t.Scale)
	var s string
	switch x := v.(type) {
	case string:
		s = x
	case json.Number:
		s = x.String()
	default:
		return nil, what
	}
	whole, frac, _ := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	if whole == "" || strings.Trim(whole+frac, "0123456789") != "" || len(frac) > t.Scale ||
		strings.HasSuffix(s, ".") || len(strings.TrimLeft(whole, "0")) > t.Precision-t.Scale || len(whole) > precisionMax {
		return nil, what
	}
	n, ok := new(big.Int).SetString(whole+frac+strings.Repeat("0", t.Scale-len(frac)), 10)
	if !ok {
		return nil, what
	}
	if strings.HasPrefix(s, "-") {
		n.Neg(n)
	}
	size := n.BitLen()/8 + 1 // with the sign
	if n.Sign() < 0 {
		size = new(big.Int).Not(n).BitLen()/8 + 1
	}
	if t.Kind == Fixed {
		if size > t.Size {
			return nil, what
		}
		size = t.Size
	}
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
	}
	return n.FillBytes(make([]byte, size)), ""
}
