package schema

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// A flaw is why bytes or a value do not fit a schema. Its text holds no value and no map key.
type flaw struct {
	path   []string // innermost first
	reason string
	cause  string // "" or framing: the bytes; schema: good bytes that the reader has no place for; too_large
}

func (f *flaw) Error() string {
	if p := f.Path(); p != "" {
		return p + ": " + f.reason
	}
	return f.reason
}

// in adds an outer path element while the flaw travels outwards.
func (f *flaw) in(elem string) *flaw {
	if len(f.path) < recursionMax { // a path has no more elements than a value has levels
		f.path = append(f.path, elem)
	}
	return f
}

// Path is the path from the outside in: line_items[2].quantity. A map entry is {}: its key may be personal data.
func (f *flaw) Path() string {
	var b []byte
	for i := len(f.path) - 1; i >= 0; i-- {
		e := f.path[i]
		if len(b) > 0 && e[0] != '[' && e[0] != '{' {
			b = append(b, '.')
		}
		b = append(b, e...)
	}
	return string(b)
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

// A walk checks that bytes are a sound value of a schema, before a decoder that trusts them sees them. Bounds:
// itemsMax entries of arrays and maps in all, recursionMax levels. It allocates only for a flaw.
type walk struct {
	buf   []byte
	pos   int
	items int // entries that are still allowed
	steps int // values that are still looked at
}

// stepsMax bounds the walk where values take no bytes (nulls, empty records), which a schema can multiply at will.
// A value of 1 MiB whose every byte is a nullable field takes half of it.
const stepsMax = 1 << 22

// sound checks that buf is exactly one value of t.
func sound(t *Type, buf []byte, itemsMax int) *flaw {
	w := walk{buf: buf, items: itemsMax, steps: stepsMax}
	if f := w.value(t, 0); f != nil {
		return f
	}
	if w.pos != len(buf) {
		return &flaw{reason: strconv.Itoa(len(buf)-w.pos) + " bytes after the end of the value"}
	}
	return nil
}

func (w *walk) value(t *Type, depth int) *flaw {
	if depth > recursionMax {
		return &flaw{reason: "nested deeper than " + strconv.Itoa(recursionMax) + " levels", cause: causeTooLarge}
	}
	if w.steps--; w.steps < 0 {
		return &flaw{reason: "more parts than are allowed in one value", cause: causeTooLarge}
	}
	switch t.Kind {
	case Null:
		return nil
	case Boolean:
		if w.pos >= len(w.buf) {
			return short()
		}
		if w.buf[w.pos] > 1 {
			return &flaw{reason: "a boolean is neither 0 nor 1"}
		}
		w.pos++
		return nil
	case Int:
		n, f := w.long()
		if f == nil && (n < -1<<31 || n > 1<<31-1) {
			return &flaw{reason: "an int is wider than 32 bits"}
		}
		return f
	case Long:
		_, f := w.long()
		return f
	case Float:
		return w.skip(4)
	case Double:
		return w.skip(8)
	case Fixed:
		return w.skip(int64(t.Size))
	case Bytes:
		n, f := w.long()
		if f != nil {
			return f
		}
		return w.skip(n)
	case String:
		return w.text()
	case Enum:
		n, f := w.long()
		if f == nil && (n < 0 || n >= int64(len(t.Symbols))) {
			return &flaw{reason: "the enum has no symbol of that number"}
		}
		return f
	case Union:
		n, f := w.long()
		if f != nil {
			return f
		}
		if n < 0 || n >= int64(len(t.Branches)) {
			return &flaw{reason: "the union has no type of that number"}
		}
		return w.value(t.Branches[n], depth+1)
	case RecordKind:
		for _, fd := range t.Fields {
			if f := w.value(fd.Type, depth+1); f != nil {
				return f.in(fd.Name)
			}
		}
		return nil
	case Array, Map:
		return w.blocks(t, depth)
	}
	return &flaw{reason: "a type of unknown kind"}
}

// blocks checks the entries of an array or map.
func (w *walk) blocks(t *Type, depth int) *flaw {
	for i := 0; ; {
		count, f := w.long()
		if f != nil {
			return f
		}
		if count == 0 {
			return nil
		}
		end := -1
		if count < 0 { // then the size of the block follows
			if count == -1<<63 {
				return &flaw{reason: "a block has an impossible count"}
			}
			count = -count
			size, f := w.long()
			if f != nil {
				return f
			}
			if size < 0 || size > int64(len(w.buf)-w.pos) {
				return &flaw{reason: "a block is longer than the bytes that are left"}
			}
			end = w.pos + int(size)
		}
		if count > int64(w.items) {
			return &flaw{reason: "more entries of arrays and maps than are allowed in one value", cause: causeTooLarge}
		}
		w.items -= int(count)
		for ; count > 0; count-- {
			if t.Kind == Map {
				if f := w.text(); f != nil {
					return f.in("{}")
				}
				if f := w.value(t.Values, depth+1); f != nil {
					return f.in("{}")
				}
			} else if f := w.value(t.Items, depth+1); f != nil {
				return f.in(index(i))
			}
			i++
		}
		if end >= 0 && end != w.pos {
			return &flaw{reason: "a block has another size than it says"}
		}
	}
}

func (w *walk) text() *flaw {
	n, f := w.long()
	if f != nil {
		return f
	}
	start := w.pos
	if f := w.skip(n); f != nil {
		return f
	}
	if !utf8.Valid(w.buf[start:w.pos]) {
		return &flaw{reason: "a string is not UTF-8"}
	}
	return nil
}

func (w *walk) skip(n int64) *flaw {
	if n < 0 {
		return &flaw{reason: "a negative length"}
	}
	if n > int64(len(w.buf)-w.pos) {
		return short()
	}
	w.pos += int(n)
	return nil
}

func (w *walk) long() (int64, *flaw) {
	// Zig-zag over a little-endian base-128 varint: binary.Varint is the same code, and it refuses more than 64 bits.
	n, size := binary.Varint(w.buf[w.pos:])
	if size > 0 {
		w.pos += size
		return n, nil
	}
	if size == 0 {
		return 0, short()
	}
	return 0, &flaw{reason: "an integer is wider than 64 bits"}
}

func short() *flaw { return &flaw{reason: "the bytes end inside the value"} }
