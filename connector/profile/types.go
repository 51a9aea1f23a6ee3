package profile

import (
	"fmt"

	"cel.dev/cel-go/common/types"

	"github.com/weirsync/weir/schema"
)

// kind is what a field's value is in [schema.Event.Fields].
type kind uint8

const (
	kindAny kind = iota // a union of several types: checked only when it is read
	kindString
	kindInt
	kindBool
	kindDouble
	kindBytes
	kindTimestamp
	kindRecord
	kindList
	kindMap
)

// A typ is the type of an event's field, as CEL checks it.
type typ struct {
	kind     kind
	nullable bool
	name     string // of a record or an enum
	fields   []typField
	elem     *typ     // of a list or a map
	symbols  []string // of an enum, which is a string
}

type typField struct {
	name string
	typ  *typ
}

func (t *typ) field(name string) *typ {
	for _, f := range t.fields {
		if f.name == name {
			return f.typ
		}
	}
	return nil
}

func (t *typ) names() []string {
	out := make([]string, len(t.fields))
	for i, f := range t.fields {
		out[i] = f.name
	}
	return out
}

// cel is the CEL type of t. Records are struct types that provider knows by their name; every field that may be
// null is a CEL wrapper type, so that it can be compared with null.
func (t *typ) cel() *types.Type {
	var c *types.Type
	switch t.kind {
	case kindString:
		c = types.StringType
	case kindInt:
		c = types.IntType
	case kindBool:
		c = types.BoolType
	case kindDouble:
		c = types.DoubleType
	case kindBytes:
		c = types.BytesType
	case kindTimestamp:
		return types.TimestampType // CEL compares it with null as it is
	case kindRecord:
		return types.NewObjectType(t.name) // the same
	case kindList:
		c = types.NewListType(t.elem.cel())
	case kindMap:
		c = types.NewMapType(types.StringType, t.elem.cel())
	default:
		return types.DynType
	}
	if t.nullable {
		switch t.kind {
		case kindList, kindMap:
			return types.DynType // CEL has no nullable list: null checks need dyn
		}
		return types.NewNullableType(c)
	}
	return c
}

// fromSchema is the type of an entity's event. prefix goes before the names of records, so that the types of two
// entities cannot meet.
func fromSchema(prefix string, s *schema.Type) *typ {
	return convert(prefix, s, map[*schema.Type]*typ{})
}

// convert follows the projection's rules for values ([schema.Event.Fields]). seen ends the recursion of types that
// contain themselves.
func convert(prefix string, s *schema.Type, seen map[*schema.Type]*typ) *typ {
	if t := seen[s]; t != nil {
		return t
	}
	if inner, ok := s.Nullable(); ok {
		c := *convert(prefix, inner, seen)
		c.nullable = true
		return &c
	}
	switch s.LogicalType {
	case schema.TimestampMillis, schema.TimestampMicros, schema.TimestampNanos:
		return &typ{kind: kindTimestamp}
	case schema.Date, schema.Decimal:
		return &typ{kind: kindString}
	}
	t := &typ{}
	switch s.Kind {
	case schema.String:
		t.kind = kindString
	case schema.Int, schema.Long:
		t.kind = kindInt
	case schema.Boolean:
		t.kind = kindBool
	case schema.Float, schema.Double:
		t.kind = kindDouble
	case schema.Bytes, schema.Fixed:
		t.kind = kindBytes
	case schema.Enum:
		t.kind, t.name, t.symbols = kindString, s.ShortName(), s.Symbols
	case schema.Array:
		t.kind, t.elem = kindList, convert(prefix, s.Items, seen)
	case schema.Map:
		t.kind, t.elem = kindMap, convert(prefix, s.Values, seen)
	case schema.RecordKind:
		t.kind, t.name = kindRecord, prefix+"."+s.ShortName()
		seen[s] = t
		for _, f := range s.Fields {
			t.fields = append(t.fields, typField{f.Name, convert(prefix, f.Type, seen)})
		}
	}
	return t // a null, or a union of several types, stays kindAny
}

// currentSchema is the text of the schema that an entity's events are projected to.
func currentSchema(s *schema.Set, entity string) ([]byte, bool) {
	sch := s.Reader(entity)
	if sch == nil {
		return nil, false
	}
	return []byte(sch.Text), true
}

func entityNames(s *schema.Set) []string { return s.Entities() }

// parseSchema reads the text of an entity's schema, current or kept in a mapping text.
func parseSchema(entity string, text []byte) (*typ, error) {
	s, err := schema.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", entity, err)
	}
	t := fromSchema(entity, s)
	if t.kind != kindRecord {
		return nil, fmt.Errorf("schema of %s is %s, not a record", entity, s)
	}
	return t, nil
}
