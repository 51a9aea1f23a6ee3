package checkpoint

import (
	"maps"
	"reflect"
	"testing"
)

func TestWithAndWithout(t *testing.T) {
	type texts = map[string]string
	for name, test := range map[string]struct {
		m, more texts
		without []string
		want    texts
		same    bool // the map itself
	}{
		"nothing to nothing":  {want: nil, same: true},
		"nothing":             {m: texts{"a": "1"}, want: texts{"a": "1"}, same: true},
		"the same":            {m: texts{"a": "1", "b": "2"}, more: texts{"b": "2"}, want: texts{"a": "1", "b": "2"}, same: true},
		"none of what is not": {m: texts{"a": "1"}, more: texts{"b": ""}, want: texts{"a": "1"}, same: true},
		"to nothing":          {more: texts{"a": "1"}, want: texts{"a": "1"}},
		"another value":       {m: texts{"a": "1", "b": "2"}, more: texts{"b": "3", "c": "4"}, want: texts{"a": "1", "b": "3", "c": "4"}},
		"taken out":           {m: texts{"a": "1", "b": "2"}, more: texts{"b": "", "a": "1"}, want: texts{"a": "1"}},
		"without what is not": {m: texts{"a": "1"}, without: []string{"b"}, want: texts{"a": "1"}, same: true},
		"without":             {m: texts{"a": "1", "b": "2"}, without: []string{"c", "b"}, want: texts{"a": "1"}},
		"nothing without":     {without: []string{"a"}, want: nil, same: true},
	} {
		t.Run(name, func(t *testing.T) {
			before := maps.Clone(test.m)
			got := Without(With(test.m, test.more), test.without)
			if !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if !maps.Equal(test.m, before) {
				t.Errorf("the map was changed to %v", test.m)
			}
			if same := reflect.ValueOf(got).Pointer() == reflect.ValueOf(test.m).Pointer(); same != test.same {
				t.Errorf("the map itself: %t, want %t", same, test.same)
			}
		})
	}
}

// A copy is changed without the original: copies share maps, which nobody changes in place.
func TestCloneIsApart(t *testing.T) {
	s := &State{IDs: map[string]string{"id": "1"}, Routes: Table[RouteState]{{Name: "r", Value: RouteState{Version: 1}}},
		Versions: Table[int64]{{Name: "r", Value: 1}}}
	c := s.Clone()
	c.IDs = With(c.IDs, map[string]string{"id": "2"})
	c.Routes.Set("r", RouteState{Version: 2})
	c.Versions.Set("r", 2)
	want := &State{IDs: map[string]string{"id": "1"}, Routes: Table[RouteState]{{Name: "r", Value: RouteState{Version: 1}}},
		Versions: Table[int64]{{Name: "r", Value: 1}}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("the original is %+v, want %+v", s, want)
	}
}
