package schema

import (
	"bytes"
	"strconv"
)

// Canonical is the schema's Parsing Canonical Form of the Avro specification: what matters for reading bytes, in
// one spelling. Two schemas with the same form read the same bytes alike; logical types, defaults and aliases are
// not part of it.
func (t *Type) Canonical() []byte {
	var b bytes.Buffer
	seen := map[*Type]string{}
	t.write(&b, seen, func(t *Type) string { return t.Name })
	return b.Bytes()
}

// Fingerprint is the CRC-64-AVRO (Rabin) fingerprint of the Parsing Canonical Form, as single-object encoding
// carries it.
func (t *Type) Fingerprint() uint64 { return rabin(t.Canonical()) }

// rabin is CRC-64-AVRO bit by bit: schemas are fingerprinted once, so it has no table.
func rabin(b []byte) uint64 {
	const empty = 0xc15d213aa4d7a795 // Avro specification, "Schema fingerprints"
	fp := uint64(empty)
	for _, c := range b {
		fp ^= uint64(c)
		for range 8 {
			fp = fp>>1 ^ empty&-(fp&1)
		}
	}
	return fp
}

// codecText is the schema as goavro gets it: no defaults (it refuses valid ones), no logical types (it panics on
// some, and the projection does them exactly), and named types called t0, t1, ..., so that no name can clash or
// resolve elsewhere (design section 15). Neither changes which bytes are read how. names says how a type is
// called in there, which is also the tag of goavro's unions.
func (t *Type) codecText() (text []byte, names map[*Type]string) {
	var b bytes.Buffer
	names = map[*Type]string{}
	t.write(&b, names, func(*Type) string { return "t" + strconv.Itoa(len(names)) })
	return b.Bytes(), names
}

// write appends t in the order and spacing of the Parsing Canonical Form. seen remembers the named types that
// have been written and how they were called.
func (t *Type) write(b *bytes.Buffer, seen map[*Type]string, name func(*Type) string) {
	quote := func(s string) { b.WriteByte('"'); b.WriteString(s); b.WriteByte('"') } // names need no escapes
	switch t.Kind {
	case RecordKind, Enum, Fixed:
		if n, ok := seen[t]; ok {
			quote(n)
			return
		}
		n := name(t)
		seen[t] = n
		b.WriteString(`{"name":`)
		quote(n)
		b.WriteString(`,"type":`)
		quote(string(t.Kind))
		switch t.Kind {
		case RecordKind:
			b.WriteString(`,"fields":[`)
			for i, f := range t.Fields {
				if i > 0 {
					b.WriteByte(',')
				}
				b.WriteString(`{"name":`)
				quote(f.Name)
				b.WriteString(`,"type":`)
				f.Type.write(b, seen, name)
				b.WriteByte('}')
			}
			b.WriteByte(']')
		case Enum:
			b.WriteString(`,"symbols":[`)
			for i, s := range t.Symbols {
				if i > 0 {
					b.WriteByte(',')
				}
				quote(s)
			}
			b.WriteByte(']')
		case Fixed:
			b.WriteString(`,"size":`)
			b.WriteString(strconv.Itoa(t.Size))
		}
		b.WriteByte('}')
	case Array:
		b.WriteString(`{"type":"array","items":`)
		t.Items.write(b, seen, name)
		b.WriteByte('}')
	case Map:
		b.WriteString(`{"type":"map","values":`)
		t.Values.write(b, seen, name)
		b.WriteByte('}')
	case Union:
		b.WriteByte('[')
		for i, x := range t.Branches {
			if i > 0 {
				b.WriteByte(',')
			}
			x.write(b, seen, name)
		}
		b.WriteByte(']')
	default:
		quote(string(t.Kind))
	}
}
