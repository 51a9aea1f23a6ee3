package core

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// lineBytesMax bounds a line of a file that is read back: a row is at most a few bodies.
const lineBytesMax = 16 * BodyBytesMax

// A journal is a file of lines that is appended under the sandbox's lock in memory and written outside of it: several
// requests share one write. A line is in the file before flush returns, so it survives a kill of the process.
type journal struct {
	path string

	mu       sync.Mutex // guards pending and appended; held for a copy only
	pending  []byte
	spare    []byte
	appended int64

	wmu     sync.Mutex // serialises writes; taken before mu
	f       *os.File
	written int64
	err     error // sticky: after a failed write the file is not trusted any more
}

// openJournal opens or creates path and calls line for each line in it. A last line without its newline was torn by a
// kill: it is cut off.
func openJournal(path string, line func(b []byte) error) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open sandbox file: %w", err)
	}
	good, err := readLines(f, line)
	if err == nil {
		err = f.Truncate(good)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read sandbox file %s: %w", path, err), f.Close())
	}
	return &journal{path: path, f: f}, nil
}

// readLines calls line for each complete line and returns the bytes that complete lines take.
func readLines(r io.Reader, line func(b []byte) error) (int64, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	var good int64
	for n := 1; ; n++ {
		var buf []byte
		for {
			part, err := br.ReadSlice('\n')
			buf = append(buf, part...)
			if len(buf) > lineBytesMax {
				return good, fmt.Errorf("line %d is longer than %d bytes", n, lineBytesMax)
			}
			if err == nil {
				break
			}
			if errors.Is(err, io.EOF) {
				return good, nil
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return good, err
			}
		}
		if b := bytes.TrimSuffix(buf, []byte{'\n'}); len(b) > 0 {
			if err := line(b); err != nil {
				return good, fmt.Errorf("line %d: %w", n, err)
			}
		}
		good += int64(len(buf))
	}
}

// append takes one line, without its newline, and returns the number to flush to.
func (j *journal) append(write func(b []byte) []byte) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pending = append(write(j.pending), '\n')
	j.appended++
	return j.appended
}

// flush returns when line number upto is in the file.
func (j *journal) flush(upto int64) error {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	if j.err != nil || j.written >= upto {
		return j.err
	}
	j.mu.Lock()
	b, n := j.pending, j.appended
	j.pending, j.spare = j.spare[:0], nil
	j.mu.Unlock()
	if _, err := j.f.Write(b); err != nil {
		j.err = fmt.Errorf("write sandbox file %s: %w", j.path, err)
		return j.err
	}
	j.written = n
	j.mu.Lock()
	if cap(b) <= 1<<20 {
		j.spare = b[:0]
	}
	j.mu.Unlock()
	return nil
}

// reset empties the file. The caller holds the sandbox's lock, so no line is appended meanwhile.
func (j *journal) reset() error {
	j.wmu.Lock()
	defer j.wmu.Unlock()
	j.mu.Lock()
	j.pending = j.pending[:0]
	j.written = j.appended
	j.mu.Unlock()
	if err := j.f.Truncate(0); err != nil {
		return fmt.Errorf("empty sandbox file %s: %w", j.path, err)
	}
	return nil
}

func (j *journal) close() error {
	j.mu.Lock()
	n := j.appended
	j.mu.Unlock()
	err := j.flush(n)
	j.wmu.Lock()
	defer j.wmu.Unlock()
	j.err = os.ErrClosed
	return errors.Join(err, j.f.Close())
}
