package config

import (
	"crypto/sha256"
	"maps"
	"reflect"
	"slices"
)

// Sum is the SHA-256 of the file at path, to see whether it has changed. It reads no more than Load would.
func Sum(path string) ([sha256.Size]byte, error) {
	data, err := readBounded(path, fileBytesMax)
	if err != nil {
		return [sha256.Size]byte{}, &Error{File: path, Err: err}
	}
	return sha256.Sum256(data), nil
}

// Update brings a running config as near to another one as can be done without a restart: now is a copy of c with
// the values of to for the keys that have the tag live. changed and restart are the keys whose values differ, by
// YAML path: those that now took over, and those that wait for a restart. Both configs have their defaults.
func (c *Config) Update(to *Config) (now *Config, changed, restart []string) {
	now = c.WithDefaults()
	now.at = nil // places of the older file would mislead
	to = to.WithDefaults()
	// Only defaults of the connectors, in which they show.
	now.Delivery, now.Window = to.Delivery, to.Window
	u := updater{}
	u.value("", reflect.ValueOf(now).Elem(), reflect.ValueOf(to).Elem(), "")
	return now, u.changed, u.restart
}

type updater struct{ changed, restart []string }

// value takes over what differs if it is live, and notes it.
func (u *updater) value(path string, now, to reflect.Value, tag reflect.StructTag) {
	live := tag.Get("live") != ""
	switch {
	case now.Type() == secretType:
		if now.Interface().(Secret).Ref() != to.Interface().(Secret).Ref() {
			u.differs(path, now, to, live)
		}
	case now.Type() == startType, now.Kind() == reflect.Slice:
		if !reflect.DeepEqual(now.Interface(), to.Interface()) {
			u.differs(path, now, to, live)
		}
	case now.Kind() == reflect.Pointer:
		switch {
		case now.IsNil() != to.IsNil():
			u.differs(path, now, to, live)
		case !now.IsNil():
			u.value(path, now.Elem(), to.Elem(), tag)
		}
	case now.Kind() == reflect.Struct:
		for _, f := range fieldsOf(now.Type()) {
			t := f.tag
			if live {
				t = tag // all that is inside
			}
			u.value(join2(path, f.key), now.Field(f.index), to.Field(f.index), t)
		}
	case now.Kind() == reflect.Map:
		keys := map[string]bool{}
		for _, m := range []reflect.Value{now, to} {
			for _, k := range m.MapKeys() {
				keys[k.String()] = true
			}
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			key := reflect.ValueOf(k)
			a, b := now.MapIndex(key), to.MapIndex(key)
			if !a.IsValid() || !b.IsValid() {
				u.note(join2(path, k), live)
				continue
			}
			e := reflect.New(a.Type()).Elem() // a map's elements cannot be set
			e.Set(a)
			u.value(join2(path, k), e, b, tag)
		}
		if live {
			now.Set(to)
		}
	default:
		if !now.Equal(to) {
			u.differs(path, now, to, live)
		}
	}
}

func (u *updater) differs(path string, now, to reflect.Value, live bool) {
	u.note(path, live)
	if live {
		now.Set(to)
	}
}

func (u *updater) note(path string, live bool) {
	if live {
		u.changed = append(u.changed, path)
	} else {
		u.restart = append(u.restart, path)
	}
}
