package checkpoint

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestTable(t *testing.T) {
	var table Table[int64]
	table.Set("b", 1)
	table.Set("a", 2)
	table.Set("b", 3)
	if v, ok := table.Find("b"); v != 3 || !ok || table.Get("a") != 2 || table.Get("c") != 0 || len(table) != 2 {
		t.Errorf("table %+v", table)
	}
	b, err := json.Marshal(table)
	if err != nil || string(b) != `{"a":2,"b":3}` {
		t.Errorf("%s, %v", b, err)
	}
	for _, c := range []struct {
		text string
		want Table[int64]
	}{
		{`{"z":1,"a":2}`, Table[int64]{{"z", 1}, {"a", 2}}},
		{`{"a":1,"a":2}`, Table[int64]{{"a", 2}}},
		{`{}`, nil},
		{`null`, nil},
	} {
		got := Table[int64]{{"old", 1}}
		if err := json.Unmarshal([]byte(c.text), &got); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s gives %v, %v; want %v", c.text, got, err, c.want)
		}
	}
	for _, text := range []string{`[]`, `3`, `{"a":"x"}`, `"x"`} {
		if err := json.Unmarshal([]byte(text), &table); err == nil {
			t.Errorf("%s gives %v and no error", text, table)
		}
	}
}
