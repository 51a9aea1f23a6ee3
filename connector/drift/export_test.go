package drift

import (
	"testing"
	"testing/fstest"
)

// CheckOne is the body of FuzzContract.
func CheckOne(t *testing.T, pair string, answer []byte) {
	v, there, err := decode(answer)
	if there && err == nil {
		shapeOf(v, nil, nil).compare("", v, nil, func(kind Kind, path, want, got string) {
			t.Errorf("%s: %s at %q: recorded %s, found %s in the same answer", answer, kind, path, want, got)
		})
	}
	p, err := parsePair("pair", []byte(pair))
	if err != nil {
		return
	}
	text, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadPair(fstest.MapFS{"pair.json": {Data: text}}, "pair.json")
	if err != nil {
		t.Fatalf("%s\nis written as\n%s\nwhich is refused: %v", pair, text, err)
	}
	if twice, err := again.Encode(); err != nil || string(twice) != string(text) {
		t.Fatalf("%s\nis written as\n%s\nand then as\n%s", pair, text, twice)
	}
	if p.Answer != nil && there {
		p.Answer.compare("", v, p.Free, func(Kind, string, string, string) {})
	}
}
