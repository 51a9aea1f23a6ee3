package schema

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Masked stands where personal data was.
const Masked = "***"

// Redact returns a copy of an event's fields in which all personal data is Masked: what the newest schema of the
// entity tags PII, everything below a tagged field, and everything that the schema does not know. null stays null,
// and lists, records and maps keep their shape, so that one still sees what was there. Keys of a tagged map stay
// where they look like names (small letters, digits, underscores, no digit first), else they are numbered. An
// unknown entity leaves no field.
func (s *Set) Redact(entity string, fields map[string]any) map[string]any {
	sch := s.Reader(entity)
	if sch == nil || fields == nil {
		return nil
	}
	out, _ := redact(sch.Type, fields, false, 0).(map[string]any)
	return out
}

// Personal reports whether a dotted path of an entity's newest schema holds personal data: it, something above it or
// something below it is tagged PII. A path that the schema does not know counts as personal, as does one of an unknown
// entity; "*" is the whole event.
func (s *Set) Personal(entity, path string) bool {
	sch := s.Reader(entity)
	if sch == nil || path == "*" {
		return true
	}
	t := sch.Type
	for _, name := range strings.Split(path, ".") {
		for done := false; !done; {
			inner, nullable := t.Nullable()
			switch {
			case t.Kind == Array:
				t = t.Items
			case nullable:
				t = inner
			default:
				done = true
			}
		}
		switch t.Kind {
		case RecordKind:
			f := t.Field(name)
			if f == nil || f.PII() {
				return true
			}
			t = f.Type
		case Map:
			t = t.Values
		default:
			return true
		}
	}
	return holdsPII(t, 0)
}

func holdsPII(t *Type, depth int) bool {
	if depth > recursionMax {
		return true
	}
	switch t.Kind {
	case RecordKind:
		for i := range t.Fields {
			if f := t.Fields[i]; f.PII() || holdsPII(f.Type, depth+1) {
				return true
			}
		}
	case Map:
		return holdsPII(t.Values, depth+1)
	case Array:
		return holdsPII(t.Items, depth+1)
	case Union:
		for _, b := range t.Branches {
			if holdsPII(b, depth+1) {
				return true
			}
		}
	}
	return false
}

func redact(t *Type, v any, pii bool, depth int) any {
	if v == nil {
		return nil
	}
	if depth > recursionMax {
		return Masked
	}
	switch t.Kind {
	case RecordKind:
		m, ok := v.(map[string]any)
		if !ok {
			return Masked
		}
		out := make(map[string]any, len(m))
		unknown := 0
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if f := t.Field(k); f != nil {
				out[k] = redact(f.Type, m[k], pii || f.PII(), depth+1)
			} else {
				unknown++
				out["unknown_"+strconv.Itoa(unknown)] = Masked
			}
		}
		return out
	case Map:
		m, ok := v.(map[string]any)
		if !ok {
			return Masked
		}
		out := make(map[string]any, len(m))
		for i, k := range slices.Sorted(maps.Keys(m)) {
			name := k
			if pii && !plainKey(k) {
				name = "{" + strconv.Itoa(i) + "}"
			}
			out[name] = redact(t.Values, m[k], pii, depth+1)
		}
		return out
	case Array:
		list, ok := v.([]any)
		if !ok {
			return Masked
		}
		out := make([]any, len(list))
		for i, x := range list {
			out[i] = redact(t.Items, x, pii, depth+1)
		}
		return out
	case Union:
		if inner, ok := t.Nullable(); ok {
			return redact(inner, v, pii, depth+1)
		}
		if pii {
			return Masked
		}
		for _, b := range t.Branches { // which type it was is no longer known: only one without parts can be shown
			switch b.Kind {
			case RecordKind, Map, Array:
				return Masked
			}
		}
		return v
	}
	if pii {
		return Masked
	}
	switch v.(type) {
	case map[string]any, []any: // not what the schema says
		return Masked
	}
	return v
}

// plainKey reports whether a map key looks like the name of a field and not like somebody's data.
func plainKey(k string) bool {
	if k == "" || len(k) > 64 {
		return false
	}
	for i := range len(k) {
		c := k[i]
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}
