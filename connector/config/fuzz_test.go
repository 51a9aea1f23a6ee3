package config

import (
	"errors"
	"strings"
	"testing"
)

// FuzzParse: whatever the file holds, Parse does not panic and answers either
//   - a config that Validate accepts and whose effective form is a config with the same effective form, or
//   - an *Error with at least one problem, each with a text, and a place inside the file if it has one;
//
// and an error never repeats an inline secret.
func FuzzParse(f *testing.F) {
	f.Add([]byte(designExample))
	f.Add([]byte(minimal))
	f.Add([]byte(minimal + "    secrets: {api_key: hunter2hunter2}\n"))
	f.Add([]byte(minimal + "    secrets: {api_key: [hunter2hunter2]}\n"))
	f.Add([]byte("kafka: &k {tls: *k}\nconnectors: *k\n"))
	f.Add([]byte("{}"))
	f.Add([]byte("kafka: {brokers: [!!str b:1]}\n---\n"))
	f.Add([]byte("? a\n: b\n"))
	f.Add([]byte("connectors: {a: {secrets: {\"a.b\": \"${env:A}\"}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data, noEnv)
		if err != nil {
			var ce *Error
			if !errors.As(err, &ce) || len(ce.Problems) == 0 {
				t.Fatalf("Parse = %v, want an *Error with problems", err)
			}
			lines := strings.Count(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data)), "\n") + 1
			for _, p := range ce.Problems {
				if p.What == "" || p.Line < 0 || p.Line > lines || (p.Line > 0) != (p.Column > 0) {
					t.Errorf("problem without text or outside the %d lines: %+v", lines, p)
				}
			}
			if strings.Contains(string(data), "secrets: {api_key: hunter2hunter2}") && strings.Contains(err.Error(), "hunter2hunter2") {
				t.Errorf("the error repeats the secret: %v", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("Parse accepted what Validate refuses: %v", err)
		}
		one, err := c.Effective()
		if err != nil {
			t.Fatal(err)
		}
		d, err := Parse("f.yaml", one, noEnv)
		if err != nil {
			t.Fatalf("the effective config is refused: %v\n%s", err, one)
		}
		two, err := d.Effective()
		if err != nil {
			t.Fatal(err)
		}
		if string(one) != string(two) {
			t.Errorf("effective configs differ:\n%s\n%s", one, two)
		}
	})
}
