package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// An Incompatibility is one reason why values of a writer schema do not read as the reader schema.
type Incompatibility struct {
	Path   string // of the reader's field
	Reason string
	// Certain: no value with that field can be read. Else only some cannot: an enum symbol or a type of a union
	// that the reader has no place for.
	Certain bool
}

func (i Incompatibility) String() string {
	if i.Path == "" {
		return i.Reason
	}
	return i.Path + ": " + i.Reason
}

// Compatible lists why reader cannot read all that was written with writer, by the Avro specification's rules of
// schema resolution, nil if it can: reader is then a BACKWARD compatible successor of writer. Weir adds one rule:
// two known logical types that differ are incompatible, for the same number would mean something else.
func Compatible(writer, reader *Type) []Incompatibility {
	_, names := writer.codecText()
	r := &resolver{names: names, memo: map[pair]*lazy{}}
	r.resolve(writer, reader, "", 0)
	return r.problems
}

// A step turns one value, as goavro gave it, into the reader's form. nil is the step that leaves it as it is.
// It owns v and may change it in place. Errors are *flaw.
type step func(v any) (any, *flaw)

type pair struct{ w, r *Type }

// lazy is the step of a pair of records that is still being resolved: a recursive schema meets it again.
type lazy struct {
	step step
	used bool
}

type resolver struct {
	names    map[*Type]string // names of the writer's types in goavro's schema
	memo     map[pair]*lazy
	problems []Incompatibility
	calls    *int
}

// problem notes an incompatibility; the step fails for the value that meets it.
func (r *resolver) problem(path, reason string, certain bool) step {
	r.problems = append(r.problems, Incompatibility{Path: path, Reason: reason, Certain: certain})
	return func(any) (any, *flaw) { return nil, &flaw{reason: reason, cause: causeSchema} }
}

func (r *resolver) resolve(w, rd *Type, path string, depth int) step {
	if r.calls == nil {
		r.calls = new(int)
	}
	if *r.calls++; *r.calls > resolveCallsMax || depth > 4*schemaDepthMax {
		return r.problem(path, "the two schemas are too intricate to resolve", true)
	}
	switch {
	case w.Kind == Union:
		return r.writerUnion(w, rd, path, depth)
	case rd.Kind == Union:
		return r.readerUnion(w, rd, path, depth)
	case w.Kind == rd.Kind:
		switch w.Kind {
		case RecordKind:
			return r.record(w, rd, path, depth)
		case Enum:
			return r.enum(w, rd, path)
		case Array:
			return r.array(w, rd, path, depth)
		case Map:
			return r.mapping(w, rd, path, depth)
		case Fixed:
			if !sameName(w, rd) {
				return r.problem(path, fmt.Sprintf("%s was written, %s is read", w, rd), true)
			}
			if w.Size != rd.Size {
				return r.problem(path, fmt.Sprintf("%s was written with %d bytes, is read with %d", w, w.Size, rd.Size), true)
			}
		}
	}
	return r.leaf(w, rd, path)
}

// sameName: "both schemas are enums/fixed/records whose (unqualified) names match"; a reader's alias renames the
// writer's type.
func sameName(w, rd *Type) bool {
	return w.ShortName() == rd.ShortName() || slices.Contains(rd.Aliases, w.Name)
}

// writerUnion: "if writer's is a union, but reader's is not: if the reader's schema matches the selected writer's
// schema, it is recursively resolved against it; if they do not match, an error is signalled". With a union on both
// sides each of the writer's types meets the reader's union.
func (r *resolver) writerUnion(w, rd *Type, path string, depth int) step {
	byTag := make(map[string]step, len(w.Branches))
	var null step
	hasNull, others := false, 0
	var only step
	for _, b := range w.Branches {
		before := len(r.problems)
		s := r.resolve(b, rd, path, depth+1)
		for i := before; i < len(r.problems); i++ {
			r.problems[i].Certain = false // the other types may be fine
		}
		if b.Kind == Null {
			null, hasNull = s, true
			continue
		}
		tag := string(b.Kind)
		if n, ok := r.names[b]; ok {
			tag = n
		}
		byTag[tag], only = s, s
		others++
	}
	return func(v any) (any, *flaw) {
		m, ok := v.(map[string]any) // goavro: {tag: value}, null without one
		if !ok {
			if v == nil && hasNull {
				return apply(null, nil)
			}
			return nil, wrongForm(v)
		}
		for tag, x := range m {
			if others == 1 {
				return apply(only, x)
			}
			s, ok := byTag[tag]
			if !ok {
				return nil, wrongForm(v)
			}
			return apply(s, x)
		}
		return nil, wrongForm(v)
	}
}

// readerUnion: "the first schema in the reader's union that matches the writer's schema is recursively resolved
// against it". As the reference implementation does, a type of the same kind and name goes before one that needs a
// promotion: with ["double", "long"] a long stays a long.
func (r *resolver) readerUnion(w, rd *Type, path string, depth int) step {
	var exact *Type
	for _, b := range rd.Branches {
		if b.Kind == w.Kind && (b.Name == "" || sameName(w, b)) && (exact == nil || b.Name == w.Name) {
			exact = b
		}
	}
	if exact != nil {
		return r.resolve(w, exact, path, depth+1)
	}
	for _, b := range rd.Branches { // only types without parts have promotions
		trial := &resolver{names: r.names, memo: map[pair]*lazy{}, calls: r.calls}
		if s := trial.resolve(w, b, path, depth+1); len(trial.problems) == 0 {
			return s
		}
	}
	return r.problem(path, fmt.Sprintf("%s was written, the reader's %s has no place for it", w, rd), true)
}

// record: "the ordering of fields may be different: fields are matched by name; a field of the writer that the
// reader lacks is ignored; a field of the reader that the writer lacks takes the reader's default, without one an
// error is signalled". Aliases of the reader's field are names of the writer's.
func (r *resolver) record(w, rd *Type, path string, depth int) step {
	if !sameName(w, rd) {
		return r.problem(path, fmt.Sprintf("%s was written, %s is read", w, rd), true)
	}
	key := pair{w, rd}
	if l, ok := r.memo[key]; ok {
		l.used = true
		return func(v any) (any, *flaw) { return apply(l.step, v) }
	}
	l := &lazy{}
	r.memo[key] = l

	type move struct {
		from, to string
		step     step
	}
	var moves []move // fields that change their value or their name
	type fill struct {
		name string
		make func() any
	}
	var fills []fill
	taken := map[string]bool{}
	renames := false
	var fails step // a field can have no value, so no record can
	for _, f := range rd.Fields {
		at := join(path, f.Name)
		from := w.Field(f.Name)
		for i := 0; from == nil && i < len(f.Aliases); i++ {
			if c := w.Field(f.Aliases[i]); c != nil && !taken[c.Name] && rd.Field(c.Name) == nil {
				from = c
			}
		}
		if from == nil {
			if !f.HasDefault {
				fails = r.problem(at, "the writer has no such field and the reader no default for it", true)
				continue
			}
			mk, err := defaultMaker(f.Type, f.Default)
			if err != nil {
				fails = r.problem(at, "the reader's default does not fit its type: "+err.Error(), true)
				continue
			}
			fills = append(fills, fill{f.Name, mk})
			continue
		}
		taken[from.Name] = true
		s := r.resolve(from.Type, f.Type, at, depth+1)
		if from.Name != f.Name {
			renames = true
		}
		if s != nil || from.Name != f.Name {
			moves = append(moves, move{from.Name, f.Name, s})
		}
	}
	var drops []string
	for _, f := range w.Fields {
		if !taken[f.Name] {
			drops = append(drops, f.Name)
		}
	}
	if fails != nil { // in a union only this type is unreadable: the plan stands, and the value must not pass as it is
		l.step = fails
		return fails
	}
	if !renames && len(moves)+len(fills)+len(drops) == 0 && !l.used {
		delete(r.memo, key)
		return nil
	}
	l.step = func(v any) (any, *flaw) {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, wrongForm(v)
		}
		for _, mv := range moves {
			x := m[mv.from]
			if mv.step != nil {
				var f *flaw
				if x, f = mv.step(x); f != nil {
					return nil, f.in(mv.to)
				}
			}
			if mv.from != mv.to { // no reader field has the name mv.from, or that field would have taken it
				delete(m, mv.from)
			}
			m[mv.to] = x
		}
		for _, d := range drops {
			delete(m, d)
		}
		for _, f := range fills {
			m[f.name] = f.make()
		}
		return m, nil
	}
	return l.step
}

// enum: "if the writer's symbol is not present in the reader's enum and the reader has a default value, then that
// value is used, otherwise an error is signalled".
func (r *resolver) enum(w, rd *Type, path string) step {
	if !sameName(w, rd) {
		return r.problem(path, fmt.Sprintf("%s was written, %s is read", w, rd), true)
	}
	missing := map[string]bool{}
	for _, s := range w.Symbols {
		if !slices.Contains(rd.Symbols, s) {
			missing[s] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !rd.HasDefault {
		names := slices.Sorted(maps.Keys(missing))
		r.problem(path, fmt.Sprintf("the reader's %s has neither the symbol %s nor a default", rd, names[0]), false)
	}
	return func(v any) (any, *flaw) {
		s, ok := v.(string)
		switch {
		case !ok:
			return nil, wrongForm(v)
		case !missing[s]:
			return v, nil
		case rd.HasDefault:
			return rd.Default, nil
		}
		return nil, &flaw{reason: "the reader's enum has neither the symbol that was written nor a default", cause: causeSchema}
	}
}

func (r *resolver) array(w, rd *Type, path string, depth int) step {
	s := r.resolve(w.Items, rd.Items, path+"[]", depth+1)
	if s == nil {
		return nil
	}
	return func(v any) (any, *flaw) {
		list, ok := v.([]any)
		if !ok {
			return nil, wrongForm(v)
		}
		for i, x := range list {
			y, f := s(x)
			if f != nil {
				return nil, f.in(index(i))
			}
			list[i] = y
		}
		return v, nil
	}
}

func (r *resolver) mapping(w, rd *Type, path string, depth int) step {
	s := r.resolve(w.Values, rd.Values, path+"{}", depth+1)
	if s == nil {
		return nil
	}
	return func(v any) (any, *flaw) {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, wrongForm(v)
		}
		for k, x := range m {
			y, f := s(x)
			if f != nil {
				return nil, f.in("{}")
			}
			m[k] = y // a key that is there: allowed while ranging
		}
		return v, nil
	}
}

// leaf resolves types without parts: the same, or one of the promotions "int to long, float or double; long to
// float or double; float to double; string to bytes; bytes to string". Ours: what has a logical type is not promoted to
// a float or text, since a time or decimal would lose its digits or its meaning, and another logical type is no match.
func (r *resolver) leaf(w, rd *Type, path string) step {
	if w.LogicalType != "" && w.LogicalType != "uuid" && w.Kind != rd.Kind && rd.Kind != Int && rd.Kind != Long {
		return r.problem(path, fmt.Sprintf("%s was written, %s is read: it would not be exact", w, rd), true)
	}
	if w.LogicalType != "" && rd.LogicalType != "" && w.LogicalType != "uuid" && rd.LogicalType != "uuid" {
		if w.LogicalType != rd.LogicalType {
			return r.problem(path, fmt.Sprintf("%s was written, %s is read: the same number would mean something else", w, rd), true)
		}
		if w.LogicalType == Decimal && (w.Scale != rd.Scale || w.Precision != rd.Precision) {
			return r.problem(path, fmt.Sprintf("decimal(%d,%d) was written, decimal(%d,%d) is read", w.Precision, w.Scale, rd.Precision, rd.Scale), true)
		}
	}
	switch rd.Kind {
	case Null, Boolean:
		if w.Kind == rd.Kind {
			return nil
		}
	case Int, Long:
		if w.Kind == Int || w.Kind == Long && rd.Kind == Long {
			return integerStep(w, rd)
		}
	case Float, Double:
		switch w.Kind {
		case Int, Long:
			return floatFromInteger(rd.Kind == Float)
		case Float:
			return func(v any) (any, *flaw) {
				if x, ok := v.(float32); ok {
					return float64(x), nil
				}
				return nil, wrongForm(v)
			}
		case Double:
			if rd.Kind == Double {
				return nil
			}
		}
	case String:
		switch w.Kind {
		case String:
			return nil
		case Bytes:
			return func(v any) (any, *flaw) {
				b, ok := v.([]byte)
				if !ok {
					return nil, wrongForm(v)
				}
				if !utf8.Valid(b) {
					return nil, &flaw{reason: "bytes that are read as a string are not UTF-8"}
				}
				return string(b), nil
			}
		}
	case Bytes:
		switch w.Kind {
		case String:
			if rd.LogicalType == Decimal {
				break
			}
			return func(v any) (any, *flaw) {
				if s, ok := v.(string); ok {
					return []byte(s), nil
				}
				return nil, wrongForm(v)
			}
		case Bytes:
			return bytesStep(rd)
		}
	case Fixed:
		if w.Kind == Fixed {
			return bytesStep(rd)
		}
	}
	return r.problem(path, fmt.Sprintf("%s was written, %s is read", w, rd), true)
}

// integerStep gives an integer its form: int64, or what the reader's logical type says.
func integerStep(w, rd *Type) step {
	var form func(int64) (any, *flaw)
	switch rd.LogicalType {
	case Date, TimestampMillis, TimestampMicros, TimestampNanos:
		form = func(n int64) (any, *flaw) { return fromInteger(rd.LogicalType, n) }
	}
	if w.Kind == Long {
		if form == nil {
			return nil // goavro's int64 as it is
		}
		return func(v any) (any, *flaw) {
			if n, ok := v.(int64); ok {
				return form(n)
			}
			return nil, wrongForm(v)
		}
	}
	return func(v any) (any, *flaw) {
		n, ok := v.(int32)
		if !ok {
			return nil, wrongForm(v)
		}
		if form == nil {
			return int64(n), nil
		}
		return form(int64(n))
	}
}

// fromInteger gives a date or timestamp its form. Years from 1 to 9999 only: no other year has an RFC 3339 form,
// so none could be passed on.
func fromInteger(logicalType string, n int64) (any, *flaw) {
	var t time.Time
	switch logicalType {
	case Date:
		const day = 24 * 60 * 60
		t = time.Unix(n*day, 0).UTC() // n is an int of 32 bits
	case TimestampMillis:
		t = time.UnixMilli(n).UTC()
	case TimestampMicros:
		t = time.UnixMicro(n).UTC()
	case TimestampNanos:
		t = time.Unix(0, n).UTC()
	default:
		return n, nil
	}
	if y := t.Year(); y < 1 || y > 9999 {
		return nil, &flaw{reason: "a time outside the years 1 to 9999"}
	}
	if logicalType == Date {
		return t.Format(time.DateOnly), nil
	}
	return t, nil
}

// floatFromInteger: the specification's promotion, which other readers round where the float has too few bits. Here an
// integer is exact or refused (invariant 2).
func floatFromInteger(single bool) step {
	return func(v any) (any, *flaw) {
		switch v.(type) {
		case int32, int64:
		default:
			return nil, wrongForm(v)
		}
		f, exact := float(v)
		if !exact || single && float64(float32(f)) != f {
			return nil, &flaw{reason: "an integer with more digits than the reader's floating point type holds exactly"}
		}
		return f, nil
	}
}

// bytesStep copies, since goavro's bytes are those of the record (invariant 3), and reads decimals.
func bytesStep(rd *Type) step {
	return func(v any) (any, *flaw) {
		b, ok := v.([]byte)
		if !ok {
			return nil, wrongForm(v)
		}
		if rd.LogicalType == Decimal {
			return decimalText(b, rd)
		}
		return append(make([]byte, 0, len(b)), b...), nil
	}
}

// decimalText is the exact decimal of the big-endian two's complement b, with t.Scale digits after the point.
func decimalText(b []byte, t *Type) (any, *flaw) {
	if len(b) == 0 {
		return nil, &flaw{reason: "a decimal of no bytes"}
	}
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:] // only repeats the sign
	}
	if len(b) > decimalBytesMax(t.Precision) { // before the costly conversion
		return nil, &flaw{reason: "a decimal of more digits than its precision"}
	}
	n := new(big.Int).SetBytes(b)
	if b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	digits := new(big.Int).Abs(n).String()
	if len(digits) > t.Precision {
		return nil, &flaw{reason: "a decimal of more digits than its precision"}
	}
	if t.Scale > 0 {
		for len(digits) <= t.Scale {
			digits = "0" + digits
		}
		digits = digits[:len(digits)-t.Scale] + "." + digits[len(digits)-t.Scale:]
	}
	if n.Sign() < 0 {
		digits = "-" + digits
	}
	return digits, nil
}

// decimalBytesMax is the length of the longest two's complement of that many digits: log2(10) bits each, and a sign.
func decimalBytesMax(precision int) int { return int(float64(precision)*math.Log2(10)/8) + 2 }

func apply(s step, v any) (any, *flaw) {
	if s == nil {
		return v, nil
	}
	return s(v)
}

// wrongForm is a value that goavro gave in a form that its schema does not lead to: our own mistake, reported as a
// refusal of the record rather than a panic.
func wrongForm(v any) *flaw {
	return &flaw{reason: fmt.Sprintf("the decoder gave a %T where the schema says otherwise", v)}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// defaultMaker returns a function that makes the default value anew for each event: no two events share a map.
func defaultMaker(t *Type, def any) (func() any, error) {
	v, err := defaultValue(t, def, 0)
	if err != nil {
		return nil, err
	}
	switch v.(type) {
	case []any, map[string]any, []byte:
		return func() any { return clone(v) }, nil
	}
	return func() any { return v }, nil
}

func clone(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = clone(x)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = clone(x)
		}
		return out
	case []byte:
		return bytes.Clone(v)
	}
	return v
}

// defaultValue gives a default in JSON its form in Fields. A union's default may be of any of its types (Avro 1.12;
// before, of the first).
func defaultValue(t *Type, def any, depth int) (any, error) {
	if depth > defaultDepthMax {
		return nil, fmt.Errorf("a default nested deeper than %d levels", defaultDepthMax)
	}
	want := func(what string) (any, error) {
		return nil, fmt.Errorf("want %s for %s, got %s", what, t, jsonKind(def))
	}
	switch t.Kind {
	case Null:
		if def == nil {
			return nil, nil
		}
		return want("null")
	case Boolean:
		if b, ok := def.(bool); ok {
			return b, nil
		}
		return want("a boolean")
	case Int, Long:
		n, ok := def.(json.Number)
		if !ok {
			return want("an integer")
		}
		i, err := strconv.ParseInt(n.String(), 10, 64)
		if err != nil || t.Kind == Int && i != int64(int32(i)) {
			return nil, fmt.Errorf("%s is not an %s", n, t.Kind)
		}
		v, f := fromInteger(t.LogicalType, i)
		if f != nil {
			return nil, f
		}
		return v, nil
	case Float, Double:
		n, ok := def.(json.Number)
		if !ok {
			return want("a number")
		}
		f, err := n.Float64()
		if t.Kind == Float {
			f = float64(float32(f)) // as a value that was written reads
		}
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%s is not a %s", n, t.Kind)
		}
		return f, nil
	case String:
		if s, ok := def.(string); ok {
			return s, nil
		}
		return want("a string")
	case Enum:
		if s, ok := def.(string); ok && slices.Contains(t.Symbols, s) {
			return s, nil
		}
		return want("one of its symbols")
	case Bytes, Fixed:
		s, ok := def.(string)
		if !ok {
			return want("a string of code points up to 255")
		}
		b := make([]byte, 0, len(s))
		for _, c := range s {
			if c > 255 {
				return want("a string of code points up to 255")
			}
			b = append(b, byte(c))
		}
		if t.Kind == Fixed && len(b) != t.Size {
			return nil, fmt.Errorf("want %d bytes for %s, got %d", t.Size, t, len(b))
		}
		v, f := bytesStep(t)(b)
		if f != nil {
			return nil, f
		}
		return v, nil
	case Array:
		list, ok := def.([]any)
		if !ok {
			return want("an array")
		}
		out := make([]any, len(list))
		for i, x := range list {
			v, err := defaultValue(t.Items, x, depth+1)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	case Map:
		m, ok := def.(map[string]any)
		if !ok {
			return want("an object")
		}
		out := make(map[string]any, len(m))
		for k, x := range m {
			v, err := defaultValue(t.Values, x, depth+1)
			if err != nil {
				return nil, err
			}
			out[k] = v
		}
		return out, nil
	case RecordKind:
		m, ok := def.(map[string]any)
		if !ok {
			return want("an object")
		}
		out := make(map[string]any, len(t.Fields))
		for _, f := range t.Fields {
			x, there := m[f.Name]
			if !there {
				if !f.HasDefault {
					return nil, fmt.Errorf("the default of %s lacks %s", t, f.Name)
				}
				x = f.Default
			}
			v, err := defaultValue(f.Type, x, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			out[f.Name] = v
		}
		return out, nil
	case Union:
		var first error
		for _, b := range t.Branches {
			v, err := defaultValue(b, def, depth+1)
			if err == nil {
				return v, nil
			}
			if first == nil {
				first = err
			}
		}
		return nil, first
	}
	return want("something else")
}
