package sqlite

import (
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Lookups lead from an id to the records that carry it: from a 64-bit hash to (partition, offset). What is found
// is verified against the row, so a collision costs a read and no more.
//
// An index on random keys would touch a page for each key: measured, four fifths of the rate (design section 15).
// So a day's entries are kept as sorted runs, in the way of a log-structured merge tree: each transaction appends
// its entries as one run; when mergeRuns runs of about one size have gathered they are merged into one of the next
// size, up to runEntriesMax entries. Each entry is written once per size, in order, and a lookup reads
// one row per run. A day's runs are in a table of their own, lookup_YYYYMMDD, which retention drops whole.
//
// A run is cut into buckets of equal hash ranges: entry h is in bucket floor(h * buckets / 2^64), so no index into
// the run is needed. The table's key is run * 2^24 + bucket, its value the bucket's entries, sorted.

const (
	entryBytes = 8 + 4 + 8 // hash, partition, offset; big-endian

	// bucketEntries is the mean size of a bucket: 3,600 bytes, so that nearly all fit into one 4,096-byte page.
	bucketEntries = 180

	// mergeRuns is the number of runs of one size that are merged into one. 16 keeps the runs of a day below about
	// 80 and each entry's writes at 6 at most.
	mergeRuns = 16

	// runEntriesMax bounds a run, and with it the time that a merge holds up the writer: 20 MB, well under 0.3 s.
	runEntriesMax = 1 << 20

	bucketBits = 24
)

// An entry says that the record at (part, off) carries an id with this hash.
type entry struct {
	hash uint64
	part uint32
	off  int64
}

func compareEntries(a, b entry) int {
	switch {
	case a.hash != b.hash:
		if a.hash < b.hash {
			return -1
		}
		return 1
	case a.part != b.part:
		return int(a.part) - int(b.part)
	case a.off < b.off:
		return -1
	case a.off > b.off:
		return 1
	}
	return 0
}

// hashID is FNV-1a with the finaliser of MurmurHash3, which spreads its bits over the whole range as buckets need
// it. Stored: it must not change within a schema version.
func hashID(id string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// A run is a sorted set of entries.
type run struct {
	day, id, buckets, entries int64
}

// tier is the size class of a run: the number of base-8 digits of its entries.
func (r run) tier() int {
	t := 0
	for n := r.entries; n >= mergeRuns; n /= mergeRuns {
		t++
	}
	return t
}

// key is the key of the bucket of the run that would hold the hash.
func (r run) key(hash uint64) int64 {
	hi, _ := mul64(hash, uint64(r.buckets))
	return r.id<<bucketBits | int64(hi)
}

func mul64(a, b uint64) (hi, lo uint64) {
	const mask = 1<<32 - 1
	a0, a1, b0, b1 := a&mask, a>>32, b&mask, b>>32
	t := a1*b0 + a0*b0>>32
	w := t&mask + a0*b1
	return a1*b1 + t>>32 + w>>32, a * b
}

// dayOf is the day of t in UTC as the number YYYYMMDD.
func dayOf(t time.Time) int64 {
	y, m, d := t.UTC().Date()
	return int64(y)*10000 + int64(m)*100 + int64(d)
}

func lookupTable(day int64) string { return "lookup_" + strconv.FormatInt(day, 10) }

// appendEntries writes entries as bytes; parseEntries reads them.
func appendEntries(b []byte, es []entry) []byte {
	for _, e := range es {
		b = binary.BigEndian.AppendUint64(b, e.hash)
		b = binary.BigEndian.AppendUint32(b, e.part)
		b = binary.BigEndian.AppendUint64(b, uint64(e.off))
	}
	return b
}

func parseEntry(b []byte) entry {
	return entry{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), int64(binary.BigEndian.Uint64(b[12:]))}
}

func parseEntries(es []entry, b []byte) ([]entry, error) {
	if len(b)%entryBytes != 0 {
		return nil, fmt.Errorf("lookup bucket of %d bytes is not a whole number of entries", len(b))
	}
	for ; len(b) > 0; b = b[entryBytes:] {
		es = append(es, parseEntry(b))
	}
	return es, nil
}

// findEntries calls f with the entries of a bucket that have the hash.
func findEntries(b []byte, hash uint64, f func(entry)) error {
	n := len(b) / entryBytes
	if n*entryBytes != len(b) {
		return fmt.Errorf("lookup bucket of %d bytes is not a whole number of entries", len(b))
	}
	lo, hi := 0, n
	for lo < hi {
		mid := (lo + hi) / 2
		if binary.BigEndian.Uint64(b[mid*entryBytes:]) < hash {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < n; lo++ {
		e := parseEntry(b[lo*entryBytes:])
		if e.hash != hash {
			return nil
		}
		f(e)
	}
	return nil
}

// A merger merges sorted lists in memory that it uses again: a merge is no reason to collect garbage.
type merger struct {
	lists [][]entry
	from  []entry // the lists lie in it one after the other
	to    []entry
}

// mergeKeepMax bounds the entries of a merge whose memory is kept, twice 24 bytes for each.
const mergeKeepMax = 1 << 16

// start makes room for lists of n entries in all, which follow in from.
func (m *merger) start(n int64) {
	m.lists = m.lists[:0]
	m.from = slices.Grow(m.from[:0], int(n))
}

// listed makes what was added to from since it had start entries one of the lists.
func (m *merger) listed(start int) {
	m.lists = append(m.lists, m.from[start:len(m.from):len(m.from)])
}

// end frees the memory of a large merge.
func (m *merger) end() {
	if max(cap(m.from), cap(m.to)) > mergeKeepMax {
		m.from, m.to = nil, nil
	}
}

// merge merges the lists two by two, dropping doubles. The result is good until the next start or end.
func (m *merger) merge() []entry {
	for len(m.lists) > 1 {
		out := slices.Grow(m.to[:0], len(m.from))
		next := m.lists[:0]
		for i := 0; i < len(m.lists); i += 2 {
			start := len(out)
			a, b := m.lists[i], []entry(nil)
			if i+1 < len(m.lists) {
				b = m.lists[i+1]
			}
			for len(a) > 0 && len(b) > 0 {
				switch c := compareEntries(a[0], b[0]); {
				case c < 0:
					out, a = append(out, a[0]), a[1:]
				case c > 0:
					out, b = append(out, b[0]), b[1:]
				default:
					out, a, b = append(out, a[0]), a[1:], b[1:]
				}
			}
			out = append(append(out, a...), b...)
			next = append(next, out[start:])
		}
		m.lists, m.from, m.to = next, out, m.from
	}
	if len(m.lists) == 0 {
		return nil
	}
	return m.lists[0]
}

// lookups is the writer's view of the current day's runs.
type lookups struct {
	day  int64
	next int64 // id of the next run
	runs []run // oldest first
	scratch
}

// scratch is memory that is used again.
type scratch struct {
	buf   []byte
	merge merger
}

// flushLookups writes the transaction's entries as a run and merges runs while there are enough of one size.
func (w *writer) flushLookups() error {
	if len(w.entries) == 0 {
		return nil
	}
	slices.SortFunc(w.entries, compareEntries)
	entries := slices.Compact(w.entries)
	w.entries = w.entries[:0]

	l := &w.cache.lookups
	if day := dayOf(w.now()); day > l.day {
		if err := w.newDay(day); err != nil {
			return err
		}
	}
	if err := w.writeRun(entries); err != nil {
		return err
	}
	for {
		// The newest runs are the smallest: runs of one tier lie together at the end.
		n := len(l.runs)
		tier, same, sum := l.runs[n-1].tier(), 0, int64(0)
		for same < n && l.runs[n-1-same].tier() <= tier {
			sum += l.runs[n-1-same].entries
			same++
		}
		if same < mergeRuns || sum > runEntriesMax {
			return nil
		}
		m := &l.merge
		m.start(sum)
		for _, r := range l.runs[n-same:] {
			if err := w.readRun(r, m); err != nil {
				return err
			}
			if err := w.dropRun(r); err != nil {
				return err
			}
		}
		l.runs = l.runs[:n-same]
		if err := w.writeRun(m.merge()); err != nil {
			return err
		}
		m.end()
	}
}

// newDay makes the table of a day and drops those that are older than the retention.
func (w *writer) newDay(day int64) error {
	l := &w.cache.lookups
	if l.day != 0 {
		for _, q := range []string{insertBucket(l.day), selectBuckets(l.day), deleteBuckets(l.day)} {
			if err := w.c.forget(q); err != nil {
				return err
			}
		}
	}
	if err := w.c.run("CREATE TABLE IF NOT EXISTS " + lookupTable(day) + " (bucket INTEGER PRIMARY KEY, entries BLOB NOT NULL)"); err != nil {
		return err
	}
	*l = lookups{day: day, next: 1, scratch: l.scratch}
	if w.s.opts.LookupRetention <= 0 {
		return nil
	}
	oldest := dayOf(w.now().Add(-w.s.opts.LookupRetention))
	var drop []int64
	err := w.c.query("SELECT DISTINCT day FROM lookup_runs WHERE day < ?", func(row []driver.Value) error {
		drop = append(drop, asInt(row[0]))
		return nil
	}, oldest)
	if err != nil {
		return err
	}
	for _, d := range drop {
		if err := w.c.run("DROP TABLE IF EXISTS " + lookupTable(d)); err != nil {
			return err
		}
		if _, err := w.c.exec("DELETE FROM lookup_runs WHERE day = ?", d); err != nil {
			return err
		}
	}
	return nil
}

func insertBucket(day int64) string {
	return "INSERT INTO " + lookupTable(day) + " (bucket, entries) VALUES (?, ?)"
}

func selectBuckets(day int64) string {
	return "SELECT entries FROM " + lookupTable(day) + " WHERE bucket >= ? AND bucket < ? ORDER BY bucket"
}

func deleteBuckets(day int64) string {
	return "DELETE FROM " + lookupTable(day) + " WHERE bucket >= ? AND bucket < ?"
}

func (w *writer) writeRun(entries []entry) error {
	l := &w.cache.lookups
	r := run{day: l.day, id: l.next, entries: int64(len(entries)), buckets: int64(len(entries)+bucketEntries-1) / bucketEntries}
	l.next++
	insert := insertBucket(l.day)
	for len(entries) > 0 {
		key := r.key(entries[0].hash)
		n := 1
		for n < len(entries) && r.key(entries[n].hash) == key {
			n++
		}
		l.buf = appendEntries(l.buf[:0], entries[:n])
		if _, err := w.c.exec(insert, key, l.buf); err != nil {
			return err
		}
		entries = entries[n:]
	}
	if _, err := w.c.exec("INSERT INTO lookup_runs (day, run, buckets, entries) VALUES (?, ?, ?, ?)", r.day, r.id, r.buckets, r.entries); err != nil {
		return err
	}
	l.runs = append(l.runs, r)
	return nil
}

// readRun adds a run to the lists of a merge.
func (w *writer) readRun(r run, m *merger) error {
	start := len(m.from)
	err := w.c.query(selectBuckets(r.day), func(row []driver.Value) (err error) {
		b, _ := row[0].([]byte)
		m.from, err = parseEntries(m.from, b)
		return err
	}, r.id<<bucketBits, (r.id+1)<<bucketBits)
	m.listed(start)
	return err
}

func (w *writer) dropRun(r run) error {
	if _, err := w.c.exec(deleteBuckets(r.day), r.id<<bucketBits, (r.id+1)<<bucketBits); err != nil {
		return err
	}
	_, err := w.c.exec("DELETE FROM lookup_runs WHERE day = ? AND run = ?", r.day, r.id)
	return err
}

// loadLookups reads the newest day's runs.
func (w *writer) loadLookups() (lookups, error) {
	l := lookups{next: 1}
	row := make([]driver.Value, 1)
	if _, err := w.c.one("SELECT max(day) FROM lookup_runs", row); err != nil || row[0] == nil {
		return l, err
	}
	l.day = asInt(row[0])
	err := w.c.query("SELECT run, buckets, entries FROM lookup_runs WHERE day = ? ORDER BY run", func(row []driver.Value) error {
		r := run{day: l.day, id: asInt(row[0]), buckets: asInt(row[1]), entries: asInt(row[2])}
		l.runs = append(l.runs, r)
		l.next = r.id + 1
		return nil
	}, l.day)
	return l, err
}
