package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var newGolden = flag.Bool("new-golden", false, "write the golden files that are missing; those that exist are never written")

// testdata/<entity>.v<n>.bin is a value as the release with that version wrote it, <entity>.v<n>.json what it reads
// as. Both versions of all that follow must read it: the .bin files never change; the .json may gain fields when a
// newer version of the schema brings them.
func TestGolden(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	d := embeddedDecoder(t, DecoderOptions{})
	files := map[string]bool{}
	for _, entity := range s.Entities() {
		for _, v := range s.Versions(entity) {
			name := fmt.Sprintf("%s.v%d", entity, v.Version)
			bin, expected := filepath.Join("testdata", name+".bin"), filepath.Join("testdata", name+".json")
			files[name+".bin"], files[name+".json"] = true, true
			value, err := os.ReadFile(bin)
			if errors.Is(err, fs.ErrNotExist) && *newGolden {
				if value, err = s.EncodeVersion(entity, v.Version, sample(entity)); err == nil {
					err = os.WriteFile(bin, value, 0o644)
				}
			}
			if err != nil {
				t.Errorf("version %d of %s has no golden bytes (go test -run TestGolden -new-golden): %v", v.Version, entity, err)
				continue
			}
			key, _ := s.KeyOf(entity, sample(entity))
			ev, err := d.Decode(t.Context(), record(entity, key, value))
			if err != nil {
				t.Errorf("%s: %v", bin, err)
				continue
			}
			if ev.SchemaVersion != v.Version || ev.SchemaID != v.ID {
				t.Errorf("%s: read with version %d (id %d), want %d (id %d)", bin, ev.SchemaVersion, ev.SchemaID, v.Version, v.ID)
			}
			got, err := json.MarshalIndent(ev, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			want, err := os.ReadFile(expected)
			if errors.Is(err, fs.ErrNotExist) && *newGolden {
				want, err = got, os.WriteFile(expected, got, 0o644)
			}
			if err != nil {
				t.Error(err)
				continue
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s reads as\n%s\nwant (%s)\n%s", bin, got, expected, want)
			}
			again := encoded(t, s, entity, ev.Fields)
			if v == s.Reader(entity) && !bytes.Equal(again, value) {
				t.Errorf("%s: encoded again it has other bytes:\n%x\n%x", bin, again, value)
			}
		}
	}
	found, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if !f.IsDir() && !files[f.Name()] && !strings.HasPrefix(f.Name(), ".") {
			t.Errorf("testdata/%s belongs to no schema version", f.Name())
		}
	}
}

// An event published by the two encoders of one version is the same event.
func TestSingleObjectEqualsConfluent(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	d := embeddedDecoder(t, DecoderOptions{})
	for _, entity := range s.Entities() {
		single, err := s.EncodeSingleObject(entity, sample(entity))
		if err != nil {
			t.Fatal(err)
		}
		key, _ := s.KeyOf(entity, sample(entity))
		one, err1 := d.Decode(t.Context(), record(entity, key, single))
		two, err2 := d.Decode(t.Context(), record(entity, key, encoded(t, s, entity, sample(entity))))
		if err1 != nil || err2 != nil || !reflect.DeepEqual(one, two) {
			t.Errorf("%s: %+v (%v) and %+v (%v)", entity, one, err1, two, err2)
		}
	}
}
