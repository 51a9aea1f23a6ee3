package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
)

// rememberUses tells a sender what earlier processes said of the use of the connector's secrets.
func rememberUses(ctx context.Context, store checkpoint.Store, name string, sender *deliver.Sender) error {
	all, err := store.Statuses(ctx)
	if err != nil {
		return err
	}
	sender.Remember(usesOf(all, name))
	return nil
}

// usesOf joins what the last reports of all instances, running or not, say of the use of a connector's secrets: of each
// value the last use. The newest comes first.
func usesOf(all []checkpoint.Status, name string) []deliver.Use {
	uses := map[string]deliver.Use{}
	for _, s := range all {
		var c struct {
			Credentials []deliver.Use `json:"credentials"`
		}
		if s.Connector != name || json.Unmarshal(s.JSON, &c) != nil {
			continue
		}
		for _, u := range c.Credentials {
			if have, ok := uses[u.Fingerprint]; !ok || u.LastUsed.After(have.LastUsed) {
				uses[u.Fingerprint] = u
			}
		}
	}
	out := make([]deliver.Use, 0, len(uses))
	for _, u := range uses {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b deliver.Use) int { return b.LastUsed.Compare(a.LastUsed) })
	return out
}

// printUses says of each value of a secret when it was last used.
func printUses(w io.Writer, name string, uses []deliver.Use, now time.Time) {
	for _, u := range uses {
		refused := ""
		if !u.Refused.IsZero() {
			refused = ", refused by the vendor at " + u.Refused.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s: %s key %s last used %s (%s)%s\n", name, u.Slot, u.Fingerprint, ago(&u.LastUsed, now), u.LastUsed.Format(time.RFC3339), refused)
	}
}

// Before a secret ends there are warnings so many days ahead, on a working day.
var secretDays = [...]int{30, 14, 7}

// secretLook is how often the ends of secrets are looked at.
const secretLook = time.Hour

// A secretWatch warns of secrets that end.
type secretWatch struct {
	now  func() time.Time
	life func() (map[string]config.Rotation, map[string]config.Secret)
	log  *slog.Logger
	ends *prometheus.GaugeVec
	told map[string]bool // what was said already
}

func newSecretWatch(r connectorRun) *secretWatch {
	return &secretWatch{now: time.Now, life: r.live.rotation, log: r.Log.With("connector", r.Name), told: map[string]bool{},
		ends: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_secret_end_timestamp_seconds", Help: "When a secret reaches its max_age or expires, the earlier of them."}, []string{"secret"})}
}

// watch looks until ctx ends.
func (w *secretWatch) watch(ctx context.Context) {
	t := time.NewTicker(secretLook)
	defer t.Stop()
	for {
		w.look()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// look warns of what is due and was not said yet.
func (w *secretWatch) look() {
	rotation, secrets := w.life()
	w.ends.Reset()
	now := w.now()
	for name, r := range rotation {
		end, why, err := secretEnd(r, secrets[name])
		if err != nil {
			w.once(name+err.Error(), slog.LevelWarn, "nobody knows when the secret ends", "secret", name, "error", err.Error())
			continue
		}
		if end.IsZero() {
			continue
		}
		w.ends.WithLabelValues(name).Set(float64(end.Unix()))
		day := end.Format(time.DateOnly)
		if !now.Before(end) {
			w.once(name+day, slog.LevelError, "the secret has ended: put a new value in its place", "secret", name, "ended", day, "why", why)
			continue
		}
		due := 0
		for _, days := range secretDays {
			if !now.Before(warnAt(end, days)) {
				due = days
			}
		}
		if due > 0 {
			w.once(fmt.Sprint(name, day, due), slog.LevelWarn, "the secret ends soon: have a new value made, and keep this one under rotation.previous until it is no longer used",
				"secret", name, "ends", day, "days", int(end.Sub(now).Hours()/24), "why", why)
		}
	}
}

func (w *secretWatch) once(what string, level slog.Level, msg string, args ...any) {
	if !w.told[what] {
		w.told[what] = true
		w.log.Log(context.Background(), level, msg, args...)
	}
}

// warnAt is the day so many days before an end, or the Friday before it if that is no working day.
func warnAt(end time.Time, days int) time.Time {
	at := end.AddDate(0, 0, -days)
	switch at.Weekday() {
	case time.Saturday:
		return at.AddDate(0, 0, -1)
	case time.Sunday:
		return at.AddDate(0, 0, -2)
	}
	return at
}

// secretEnd is when a secret ends, zero if nothing says so, and which key of the config does.
func secretEnd(r config.Rotation, s config.Secret) (end time.Time, why string, err error) {
	if r.Expires != "" {
		last, err := time.Parse(time.DateOnly, r.Expires)
		if err != nil {
			return time.Time{}, "", err
		}
		end, why = last.AddDate(0, 0, 1), "expires" // it is good on its last day
	}
	if r.MaxAge == 0 {
		return end, why, nil
	}
	made, err := time.Parse(time.DateOnly, r.Issued)
	if r.Issued == "" {
		made, err = s.Written()
	}
	if err != nil {
		return time.Time{}, "", err
	}
	if old := made.Add(r.MaxAge.D()); end.IsZero() || old.Before(end) {
		end, why = old, "max_age"
	}
	return end.UTC(), why, nil
}
