package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Secret is a credential that the config refers to. It never prints its value: every form of it shows the
// reference. The zero value is no secret at all. Safe for concurrent use; copies share what was read.
type Secret struct {
	ref string
	// A function, since fmt prints a pointer's target where the verb does not fit the type, and where it may not
	// call methods (an unexported field): a function has nothing to print (promise 9).
	read func() (string, error)
}

const (
	// secretBytesMax bounds a secret's file: certificates with chains fit, a wrong path to a log does not.
	secretBytesMax = 64 << 10
	// secretReadEvery is how long a file's content is used before it is read again: sends at full rate do not
	// read the disk each, and a rotated secret is in use at once for all that a person can see.
	secretReadEvery = 100 * time.Millisecond
)

// NewSecret reads a reference, ${env:NAME} or ${file:/path}; a relative path is relative to dir. false if ref is
// anything else. getenv answers environment references when the secret is used.
func NewSecret(ref, dir string, getenv func(string) string) (Secret, bool) {
	body, ok := strings.CutPrefix(ref, "${")
	if !ok {
		return Secret{}, false
	}
	body, ok = strings.CutSuffix(body, "}")
	if !ok || strings.ContainsAny(body, "{}$\n\r\x00") {
		return Secret{}, false
	}
	switch kind, name, _ := strings.Cut(body, ":"); {
	case kind == "env" && envName(name):
		return Secret{ref, fromEnv(name, getenv)}, true
	case kind == "file" && name != "" && name == strings.TrimSpace(name):
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return Secret{"${file:" + name + "}", fromFile(name)}, true
	}
	return Secret{}, false
}

func fromEnv(name string, getenv func(string) string) func() (string, error) {
	return func() (string, error) {
		if getenv != nil {
			if v := getenv(name); v != "" {
				return v, nil
			}
		}
		return "", errors.New("the environment variable is not set or empty")
	}
}

func fromFile(path string) func() (string, error) {
	var (
		mu     sync.Mutex
		value  string
		readAt time.Time
	)
	return func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if value != "" && now.Sub(readAt) < secretReadEvery {
			return value, nil
		}
		value = ""
		data, err := readBounded(path, secretBytesMax)
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err // the path is said already
		}
		if err != nil {
			return "", err
		}
		v := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
		if v == "" {
			return "", errors.New("the file is empty")
		}
		value, readAt = v, now
		return v, nil
	}
}

func envName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// Literal is a secret with a known value, for sandboxes and tests; a config file cannot hold one.
func Literal(value string) Secret {
	return Secret{"[masked]", func() (string, error) { return value, nil }}
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.read == nil }

// Value resolves the secret now. A file is read again when what is known of it is older than a tenth of a
// second, so a changed file heals by itself; one trailing newline is removed. An unset, empty or unreadable secret is an
// error that names the reference. The caller must not log or keep the value.
func (s Secret) Value() (string, error) {
	if s.read == nil {
		return "", errors.New("no secret is configured")
	}
	v, err := s.read()
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", s.ref, err)
	}
	return v, nil
}

// Written is when the file of the secret was written; an error for a secret that has none.
func (s Secret) Written() (time.Time, error) {
	path, ok := strings.CutPrefix(s.ref, "${file:")
	if !ok {
		return time.Time{}, fmt.Errorf("secret %s is no file, so nothing says when it was made", s.ref)
	}
	info, err := os.Stat(strings.TrimSuffix(path, "}"))
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("secret %s: %w", s.ref, pe.Err)
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// Ref is the reference: ${env:NAME} or ${file:/path}; "[masked]" for a literal, "" for no secret.
func (s Secret) Ref() string { return s.ref }

// String is the reference, never the value.
func (s Secret) String() string { return s.Ref() }

// GoString is the reference, never the value.
func (s Secret) GoString() string { return "config.Secret(" + strconv.Quote(s.Ref()) + ")" }

// MarshalText is the reference, never the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.Ref()), nil }

// MarshalJSON is the reference as a string, never the value.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.Ref()) }

// MarshalYAML is the reference, never the value.
func (s Secret) MarshalYAML() (any, error) { return s.Ref(), nil }

// LogValue is the reference, never the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.Ref()) }

var (
	_ fmt.Stringer   = Secret{}
	_ fmt.GoStringer = Secret{}
	_ slog.LogValuer = Secret{}
)

var errTooLarge = errors.New("larger")

// readAtMost reads all of r, which may hold at most limit bytes.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("%w than %s", errTooLarge, Size(limit))
	}
	return data, err
}
