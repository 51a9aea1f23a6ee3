package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/config"
)

// Warnings come 30, 14 and 7 days before the end of a secret, on a working day, once each; and when it has ended.
func TestSecretWarnings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write(t, file, "x")
	made := time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)
	if err := os.Chtimes(file, made, made); err != nil {
		t.Fatal(err)
	}
	secret, ok := config.NewSecret("${file:"+file+"}", "", nil)
	if !ok {
		t.Fatal("no secret")
	}
	for _, c := range []struct {
		what string
		r    config.Rotation
		days []string // on which something is said
	}{
		// The last good day is Sunday 2026-03-15, so the end is Monday: 30 days before are Saturday 02-14, 14 are Monday, 7 are Monday.
		{"expires", config.Rotation{Expires: "2026-03-15"}, []string{"2026-02-13", "2026-03-02", "2026-03-09", "2026-03-16"}},
		// 90 days after the file was written: 2026-04-10 12:00, a Friday.
		{"age of the file", config.Rotation{MaxAge: config.Duration(90 * 24 * time.Hour)}, []string{"2026-03-11", "2026-03-27", "2026-04-03", "2026-04-10"}},
		// 14 days before Sunday 2026-03-01 are a Sunday.
		{"age since a day", config.Rotation{Issued: "2026-01-30", MaxAge: config.Duration(30 * 24 * time.Hour)}, []string{"2026-01-30", "2026-02-13", "2026-02-20", "2026-03-01"}},
		{"the earlier of both", config.Rotation{Issued: "2026-01-01", MaxAge: config.Duration(1000 * 24 * time.Hour), Expires: "2026-03-15"}, []string{"2026-02-13", "2026-03-02", "2026-03-09", "2026-03-16"}},
		{"nothing is known", config.Rotation{}, nil},
	} {
		var log bytes.Buffer
		now := time.Date(2026, 1, 20, 13, 0, 0, 0, time.UTC)
		w := newSecretWatch(connectorRun{live: newLiveRun(&config.Connector{Rotation: map[string]config.Rotation{"api_key": c.r}, Secrets: map[string]config.Secret{"api_key": secret}}),
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		w.now = func() time.Time { return now }
		var said []string
		for ; now.Before(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)); now = now.AddDate(0, 0, 1) {
			for range 3 {
				w.look()
			}
			if n := strings.Count(log.String(), "\n"); n > 1 {
				t.Errorf("%s: %d lines on %s, want one at most", c.what, n, now.Format(time.DateOnly))
			} else if n == 1 {
				said = append(said, now.Format(time.DateOnly))
			}
			log.Reset()
		}
		if strings.Join(said, " ") != strings.Join(c.days, " ") {
			t.Errorf("%s: said on %v, want %v", c.what, said, c.days)
		}
	}
}
