package schema

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

//go:embed avsc/*.avsc
var avscFS embed.FS

//go:embed rules/*.yaml
var rulesFS embed.FS

// Names of the envelope's fields, which every entity's schema has at its top level (design section 4).
const (
	FieldEventID       = "event_id"
	FieldEventType     = "event_type"
	FieldOccurredAt    = "occurred_at"
	FieldSourceSystem  = "source_system"
	FieldCorrelationID = "correlation_id"
	FieldCausationID   = "causation_id"
	FieldOperation     = "operation"
)

// Causes of a refusal, as checkpoint names them; this package imports nothing of ours.
const (
	causeFraming     = "framing"
	causeSchema      = "schema"
	causeRule        = "rule"
	causeNoKey       = "no_key"
	causeKeyMismatch = "key_mismatch"
	causeTooLarge    = "too_large"
)

// IDFirstForeign is where entities of a directory start to number their schemas; embedded ones are below it.
const IDFirstForeign ID = 1000

// ErrUnknownSchema is a Lookup's answer to an id, GUID or fingerprint that names no schema. It is definite: the
// record that carries it is refused.
var ErrUnknownSchema = errors.New("no schema has this id")

// A Schema is one version of an entity's schema, or a writer's schema from a registry. Read only.
type Schema struct {
	Entity  string // "" if it comes from a registry
	Subject Subject
	Version int // number within the subject
	ID      ID
	File    string // "" if it comes from a registry
	Text    string
	Type    *Type

	// What the record's properties name, for the schemas of a Set.
	IDField      string
	VersionField string
	TenantField  string
	References   []Reference // Key is empty

	codec *codec // of a Set's schema: ready to encode and to read single objects
}

// Fingerprint is the CRC-64-AVRO fingerprint in 16 hexadecimal digits, most significant first.
func (s *Schema) Fingerprint() string { return fmt.Sprintf("%016x", s.codec.fingerprint) }

// NewSchema is a writer's schema as a registry tells it. known are the types that its text refers to.
func NewSchema(subject Subject, version int, id ID, text string, known ...*Type) (*Schema, error) {
	t, err := Parse([]byte(text), known...)
	if err != nil {
		return nil, fmt.Errorf("schema %s version %d (id %d): %w", subject, version, id, err)
	}
	return &Schema{Subject: subject, Version: version, ID: id, Text: text, Type: t, codec: &codec{fingerprint: t.Fingerprint()}}, nil
}

// own is the version number that the schema's own text carries, 0 without one. A registry may number differently.
func (s *Schema) own() int {
	n, _ := smallInt(s.Type.Props["weir.schema_version"])
	return n
}

// codec is what is computed once per schema.
type codec struct {
	fingerprint uint64
}

// A Lookup finds writer schemas. Its methods return ErrUnknownSchema (wrapped) for what names no schema, and any
// other error when it cannot tell (the registry does not answer). They return the same *Schema for the same
// schema, since decoders keep what they compile by it. subject is the one that the record's topic has; of several
// subjects that share a schema the answer names that one. Safe for concurrent use.
type Lookup interface {
	ByID(ctx context.Context, subject Subject, id ID) (*Schema, error)
	ByGUID(ctx context.Context, subject Subject, guid [16]byte) (*Schema, error)
}

// A Set holds all versions of all entities' schemas. Immutable, so safe for concurrent use.
type Set struct {
	entities map[string][]*Schema // ascending versions
	byID     map[ID]*Schema
	byPrint  map[uint64]*Schema
}

var _ Lookup = (*Set)(nil)

// Embedded is the Set of the schemas that are built in.
func Embedded() (*Set, error) { return NewSet(EmbeddedFiles()) }

// EmbeddedFiles are the built-in schema files, for a Set that also reads a directory:
// NewSet(schema.EmbeddedFiles(), os.DirFS(dir)).
func EmbeddedFiles() fs.FS {
	sub, err := fs.Sub(avscFS, "avsc")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

// NewSet reads all files <entity>.v<n>.avsc at the top of the file systems. Versions of an entity start at 1 and
// have no holes; each must read what was written with any older one (BACKWARD_TRANSITIVE, design section 4).
// Entities of a directory number their weir.schema_id from IDFirstForeign. The error lists all that is wrong.
func NewSet(files ...fs.FS) (*Set, error) {
	s := &Set{entities: map[string][]*Schema{}, byID: map[ID]*Schema{}, byPrint: map[uint64]*Schema{}}
	var errs []error
	for _, f := range files {
		names, err := fs.Glob(f, "*.avsc")
		if err != nil {
			return nil, fmt.Errorf("read schema files: %w", err)
		}
		for _, name := range names {
			sch, err := loadFile(f, name)
			if err == nil {
				err = s.add(sch)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("schema file %s: %w", name, err))
			}
		}
	}
	if len(errs) == 0 {
		errs = s.check()
	}
	if len(errs) == 0 && len(s.entities) == 0 {
		errs = append(errs, errors.New("no schema files <entity>.v<n>.avsc found"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

func loadFile(f fs.FS, name string) (*Schema, error) {
	text, err := fs.ReadFile(f, name)
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(path.Base(name), ".avsc")
	dot := strings.LastIndex(base, ".v")
	if dot < 1 {
		return nil, errors.New("want a name like customer.v1.avsc")
	}
	entity := base[:dot]
	version, err := strconv.Atoi(base[dot+2:])
	if err != nil || version < 1 || !validName(entity) {
		return nil, errors.New("want a name like customer.v1.avsc")
	}
	t, err := Parse(text)
	if err != nil {
		return nil, err
	}
	sch := &Schema{Entity: entity, Subject: Subject("canonical." + entity + "-value"), Version: version, File: name,
		Text: string(text), Type: t, codec: &codec{fingerprint: t.Fingerprint()}}
	return sch, sch.properties()
}

// properties reads and checks what the record's properties and envelope say.
func (s *Schema) properties() error {
	t := s.Type
	if t.Kind != RecordKind {
		return fmt.Errorf("the schema is a %s, want a record", t.Kind)
	}
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if e, _ := t.Props["weir.entity"].(string); e != s.Entity {
		bad("weir.entity is %q, the file's name says %q", e, s.Entity)
	}
	if s.own() != s.Version {
		bad("weir.schema_version is %v, the file's name says %d", t.Props["weir.schema_version"], s.Version)
	}
	id, _ := t.Props["weir.schema_id"].(json.Number)
	n, err := strconv.ParseInt(id.String(), 10, 32)
	if err != nil || n < 1 {
		bad("weir.schema_id is %v, want an integer from 1 that no other schema has", t.Props["weir.schema_id"])
	}
	s.ID = ID(n)
	field := func(prop, name string, kinds ...Kind) {
		f := t.Field(name)
		if f == nil {
			bad("%s names the field %q, which is not there", prop, name)
			return
		}
		ft, nullable := f.Type.Nullable()
		if !slices.Contains(kinds, ft.Kind) || nullable && !slices.Contains(kinds, Null) {
			bad("field %s is %s, want %v", name, f.Type, kinds)
		}
	}
	for _, p := range []struct {
		prop string
		to   *string
		kind Kind
	}{{"weir.id", &s.IDField, String}, {"weir.version", &s.VersionField, Long}, {"weir.tenant", &s.TenantField, String}} {
		*p.to, _ = t.Props[p.prop].(string)
		field(p.prop, *p.to, p.kind)
	}
	for _, name := range []string{FieldEventID, FieldEventType, FieldSourceSystem} {
		field("the envelope", name, String)
	}
	for _, name := range []string{FieldCorrelationID, FieldCausationID} {
		field("the envelope", name, String, Null)
	}
	if f := t.Field(FieldOccurredAt); f == nil || f.Type.LogicalType != TimestampMillis && f.Type.LogicalType != TimestampMicros {
		bad("the envelope needs the field %s, a long with logical type %s", FieldOccurredAt, TimestampMillis)
	}
	if f := t.Field(FieldOperation); f == nil || f.Type.Kind != Enum || !slices.Equal(f.Type.Symbols, []string{string(Upsert), string(Delete)}) {
		bad("the envelope needs the field %s, an enum of %s and %s", FieldOperation, Upsert, Delete)
	}
	refs, ok := t.Props["weir.references"].([]any)
	if _, there := t.Props["weir.references"]; there && !ok {
		bad("weir.references is not an array")
	}
	for _, x := range refs {
		m, _ := x.(map[string]any)
		name, _ := m["field"].(string)
		entity, _ := m["entity"].(string)
		if entity == "" {
			bad(`weir.references: want {"field": ..., "entity": ...}`)
			continue
		}
		field("weir.references", name, String, Null)
		s.References = append(s.References, Reference{Field: name, Entity: entity})
	}
	checkDefaults(t, "", map[*Type]bool{}, bad)
	return errors.Join(errs...)
}

// checkDefaults: a reader's defaults must fit, and every enum of it needs one, or a new symbol would be a break.
func checkDefaults(t *Type, at string, seen map[*Type]bool, bad func(string, ...any)) {
	if seen[t] {
		return
	}
	seen[t] = true
	if t.Kind == Enum && !t.HasDefault {
		bad("%s: enum %s has no default, so no symbol could ever be added", at, t.Name)
	}
	for _, f := range t.Fields {
		p := join(at, f.Name)
		if f.HasDefault {
			if _, err := defaultValue(f.Type, f.Default, 0); err != nil {
				bad("%s: default: %w", p, err)
			}
		}
		checkDefaults(f.Type, p, seen, bad)
	}
	for _, b := range t.Branches {
		checkDefaults(b, at, seen, bad)
	}
	if t.Items != nil {
		checkDefaults(t.Items, at+"[]", seen, bad)
	}
	if t.Values != nil {
		checkDefaults(t.Values, at+"{}", seen, bad)
	}
}

func (s *Set) add(sch *Schema) error {
	if other := s.byID[sch.ID]; other != nil {
		return fmt.Errorf("weir.schema_id %d belongs to %s already: an id names one schema for ever", sch.ID, other.File)
	}
	if other := s.byPrint[sch.codec.fingerprint]; other != nil {
		return fmt.Errorf("reads the same bytes as %s: single-object encoding could not tell them apart", other.File)
	}
	s.byID[sch.ID] = sch
	s.byPrint[sch.codec.fingerprint] = sch
	s.entities[sch.Entity] = append(s.entities[sch.Entity], sch)
	return nil
}

func (s *Set) check() []error {
	var errs []error
	for _, entity := range s.Entities() {
		vs := s.entities[entity]
		slices.SortFunc(vs, func(a, b *Schema) int { return a.Version - b.Version })
		for i, v := range vs {
			if v.Version != i+1 {
				errs = append(errs, fmt.Errorf("schema file %s: version %d of %s is missing: versions are kept for ever", v.File, i+1, entity))
				break
			}
			for _, old := range vs[:i] {
				for _, p := range Compatible(old.Type, v.Type) {
					errs = append(errs, fmt.Errorf("schema file %s cannot read what %s wrote (BACKWARD_TRANSITIVE): %s", v.File, old.File, p))
				}
			}
			for _, ref := range v.References {
				if s.entities[ref.Entity] == nil {
					errs = append(errs, fmt.Errorf("schema file %s: %s refers to the entity %q, which has no schema", v.File, ref.Field, ref.Entity))
				}
			}
		}
	}
	return errs
}

// Entities lists the entities, sorted.
func (s *Set) Entities() []string { return slices.Sorted(maps.Keys(s.entities)) }

// Subjects lists the subjects, sorted by entity.
func (s *Set) Subjects() []Subject {
	var out []Subject
	for _, e := range s.Entities() {
		out = append(out, s.entities[e][0].Subject)
	}
	return out
}

// Versions lists an entity's schemas from version 1 on, nil for an entity that is not known. Read only.
func (s *Set) Versions(entity string) []*Schema { return s.entities[entity] }

// Reader is the newest schema of an entity, the one that Event.Fields follow, nil for an entity that is not known.
func (s *Set) Reader(entity string) *Schema {
	vs := s.entities[entity]
	if len(vs) == 0 {
		return nil
	}
	return vs[len(vs)-1]
}

// ByID implements Lookup with the ids of weir.schema_id, whatever the subject.
func (s *Set) ByID(_ context.Context, _ Subject, id ID) (*Schema, error) {
	if sch := s.byID[id]; sch != nil {
		return sch, nil
	}
	return nil, fmt.Errorf("schema id %d is not among the built-in ones and no registry is configured: %w", id, ErrUnknownSchema)
}

// ByGUID implements Lookup: the files have no GUIDs, only a registry does.
func (s *Set) ByGUID(context.Context, Subject, [16]byte) (*Schema, error) {
	return nil, fmt.Errorf("a schema GUID needs a registry and none is configured: %w", ErrUnknownSchema)
}

// ByFingerprint finds the schema of a single-object encoding: a fingerprint names its schema by content, so this
// needs no registry. nil if it is not known.
func (s *Set) ByFingerprint(fp uint64) *Schema { return s.byPrint[fp] }

func (s *Set) reader(entity string) (*Schema, error) {
	if sch := s.Reader(entity); sch != nil {
		return sch, nil
	}
	return nil, fmt.Errorf("entity %.100q has no schema: known are %s", entity, strings.Join(s.Entities(), ", "))
}
