package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// topicName is what Kafka allows.
var topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

// A validator collects problems of a config that has its defaults.
type validator struct {
	config   *Config
	problems []Problem
}

// add reports a problem at a path; its place is that of the path's key, or of the nearest key around it.
func (v *validator) add(path, what, hint string) {
	p := Problem{File: v.config.file, Path: path, What: what, Hint: hint}
	for at := path; at != ""; {
		if pos, ok := v.config.at[at]; ok {
			p.Line, p.Column = pos.line, pos.column
			break
		}
		cut := strings.LastIndexAny(at, ".[")
		at = at[:max(cut, 0)]
	}
	v.problems = append(v.problems, p)
}

// tags checks what the field tags of a struct say, and those of all structs inside.
func (v *validator) tags(path string, s any) {
	v.value(path, reflect.ValueOf(s).Elem(), "")
}

func (v *validator) value(path string, x reflect.Value, tag reflect.StructTag) {
	if tag.Get("required") != "" && empty(x) {
		v.add(path, "missing", "add it: "+strings.TrimSuffix(tag.Get("desc"), "."))
		return
	}
	switch {
	case x.Type() == secretType, x.Type() == startType:
	case x.Kind() == reflect.Pointer:
		if !x.IsNil() {
			v.value(path, x.Elem(), "")
		}
	case x.Kind() == reflect.Struct:
		for _, f := range fieldsOf(x.Type()) {
			v.value(join2(path, f.key), x.Field(f.index), f.tag)
		}
	case x.Kind() == reflect.Map:
		pattern := regexp.MustCompile(tag.Get("keypattern"))
		keys := x.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			if !pattern.MatchString(k.String()) {
				v.add(path, quote(k.String())+" is not "+tag.Get("keydesc"), "")
			}
			v.value(join2(path, k.String()), x.MapIndex(k), "")
		}
	case (x.Kind() == reflect.Int || x.Kind() == reflect.Int64) && x.IsZero() && tag.Get("default") == "":
		// not said; a zero that is written out was refused when it was read
	case x.Kind() == reflect.Int, x.Kind() == reflect.Int64:
		if what := outside(x.Type(), x.Int(), tag); what != "" {
			v.add(path, what, wantOf(x.Type(), tag))
		}
	case x.Kind() == reflect.String:
		s := x.String()
		if e := tag.Get("enum"); e != "" && s != "" && !slices.Contains(strings.Split(e, ","), s) {
			v.add(path, quote(s)+" is not known", wantOf(x.Type(), tag))
		}
		if p := tag.Get("pattern"); p != "" && (s != "" || tag.Get("default") != "") && !regexp.MustCompile(p).MatchString(s) {
			v.add(path, quote(s)+" does not match "+p, "")
		}
	}
}

func empty(x reflect.Value) bool {
	switch x.Kind() {
	case reflect.Slice, reflect.Map:
		return x.Len() == 0
	case reflect.Struct:
		if x.Type() != secretType {
			return false // its own fields say what is missing
		}
	}
	return x.IsZero()
}

// fillDefaults sets each zero field of a struct, and of the structs inside, to its default tag. Maps, lists and
// pointers are left alone.
func fillDefaults(s any) { fill(reflect.ValueOf(s).Elem()) }

func fill(x reflect.Value) {
	for _, f := range fieldsOf(x.Type()) {
		e, def := x.Field(f.index), f.tag.Get("default")
		switch {
		case e.Type() == secretType || e.Type() == startType:
		case e.Kind() == reflect.Struct:
			fill(e)
		case def == "" || !e.IsZero():
		case e.Kind() == reflect.String:
			e.SetString(def)
		default:
			e.SetInt(*bound(e.Type(), def))
		}
	}
}

// inherit sets each zero field of a struct to that of another of its type.
func inherit[T any](to, from *T) {
	t, f := reflect.ValueOf(to).Elem(), reflect.ValueOf(from).Elem()
	for i := range t.NumField() {
		if t.Field(i).IsZero() {
			t.Field(i).Set(f.Field(i))
		}
	}
}
