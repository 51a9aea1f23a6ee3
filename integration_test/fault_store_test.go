package integration_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // another process's view of the store

	"github.com/weirsync/weir/integration_test/harness"
)

// diskBytes is the size of the disk that the store of TestFaultDiskFull is on.
const diskBytes = 48 << 20

// The store's disk is full for a while. Nothing is committed to Kafka meanwhile, since nothing gets a durable outcome.
func TestFaultDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("weir-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes)); err != nil {
		t.Skipf("needs a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := newTrial(t, boxOptions{dir: dir})
	r.run()
	filler := filepath.Join(dir, "filler")
	r.endure(fault{name: "disk full", state: "outage", reason: "store: ", ready: http.StatusServiceUnavailable, late: 5 * time.Second,
		start: func() { fill(t, filler) },
		end: func() {
			r.nothingCommitted()
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		}})
	r.finish(map[string]int{"store does not answer as it should": 1, "store answers again": 1})
}

// fill writes until the disk has no room for another byte.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err == nil {
			continue
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		size /= 16
	}
}

// nothingCommitted looks for a while that the group's offsets stay where they are.
func (r *trial) nothingCommitted() {
	r.t.Helper()
	offsets := func() (sum int64) {
		os, err := r.admin.FetchOffsets(r.t.Context(), "weir."+r.name)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, o := range os.Sorted() {
			sum += o.At
		}
		return sum
	}
	before := offsets()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(boxPoll) { // what must not happen has no signal
		if now := offsets(); now != before {
			r.t.Fatalf("%d offsets were committed while the store took no writes", now-before)
		}
	}
}

// Another process holds the store's write lock for a while.
func TestFaultStoreLocked(t *testing.T) {
	t.Parallel()
	r := newTrial(t, boxOptions{})
	r.run()
	db, err := sql.Open("sqlite", r.store)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	do := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	do("PRAGMA busy_timeout = 10000")
	r.endure(fault{name: "store locked", state: "outage", reason: "another process", ready: http.StatusServiceUnavailable, late: 8 * time.Second,
		start: func() { do("BEGIN IMMEDIATE") },
		end: func() {
			r.nothingCommitted()
			do("ROLLBACK")
		}})
	r.finish(map[string]int{"store does not answer as it should": 1, "store answers again": 1})
}

// damage writes over all pages of the store's files.
func damage(t *testing.T, store string) {
	t.Helper()
	for _, name := range []string{store, store + "-wal"} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) && name != store {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", int(st.Size()))), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A store whose pages were written over ends the run with exit code 3 and the steps to restore it, and the steps of
// docs/restore.md, word for word, bring everything back: nothing counts as delivered that was not, and what may have been
// sent is sent again where that is harmless, else parked for a person (design section 3).
func TestFaultStoreDamaged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ while, section string }{{"running", "2a. With a backup"}, {"stopped", "2b. Without a backup"}} {
		t.Run(c.while, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{})
			dir := filepath.Dir(b.store)
			weir := b.start()
			b.publish(append(customers("a", 20, 1), invoices("a-inv", 20)...)...)
			b.waitLag0()
			b.stop(weir)
			copyFile(t, b.store, filepath.Join(dir, "backup.db"))
			weir = b.start()
			b.publish(append(customers("b", 20, 1), invoices("b-inv", 20)...)...)
			b.waitLag0()
			ends := func(p *harness.Process) string {
				t.Helper()
				res := p.Wait(t, boxWait)
				if res.Code != 3 {
					t.Errorf("exit code %d with a damaged store, want 3\n%s", res.Code, tail(res.Stderr))
				}
				for _, want := range []string{"store is damaged", b.store, "backup", "--store-lost", "docs/restore.md"} {
					if !strings.Contains(res.Stderr, want) {
						t.Errorf("stderr of a run with a damaged store does not say %q:\n%s", want, tail(res.Stderr))
					}
				}
				return res.Stderr
			}
			if c.while == "running" {
				damage(t, b.store)
				b.publish(append(customers("c", 20, 1), invoices("c-inv", 20)...)...)
				if lines := linesWith(ends(weir), "connector stops"); len(lines) != 1 {
					t.Errorf("%d lines say that it stops, want one", len(lines))
				}
			} else {
				b.stop(weir)
				damage(t, b.store)
				b.publish(append(customers("c", 20, 1), invoices("c-inv", 20)...)...)
			}
			ends(b.start()) // it does not start on it either
			applied := len(b.sandbox.Applied(t))

			weir = b.followRestore(dir, c.section)
			began := time.Now()
			b.waitLag0()
			t.Logf("restored after the store was damaged while %s: lag 0 after %v", c.while, time.Since(began).Round(time.Millisecond))
			after := b.publish(append(customers("d", 5, 1), invoices("d-inv", 5)...)...)
			b.waitLag0()
			b.followSection(dir, "3. Look at what is in doubt")
			b.stop(weir)
			for _, r := range after {
				if o := b.outcome(originOf(r)); o.Outcome != "delivered" {
					t.Errorf("published after the restore: %+v, want delivered", o)
				}
			}
			// Published while the store was damaged: nobody knows whether these were sent.
			for i := range 20 {
				if n := b.things(fmt.Sprintf("c-%d", i)); n == 0 {
					t.Errorf("the state of c-%d never got to the vendor", i)
				}
				if o := b.outcome(fmt.Sprintf("evt-c-inv-%d-1", i)); o.Outcome != "parked" || o.Cause != "ambiguous" {
					t.Errorf("a payment that may have been sent: %+v, want parked, ambiguous", o)
				}
			}
			payments := b.appliedTo(func(e harness.Effect) string {
				if e.Operation == "create_payment" {
					return e.Reference
				}
				return ""
			})
			for ref, n := range payments {
				if n > 1 {
					t.Errorf("payment %s was made %d times", ref, n)
				}
			}
			switch c.while {
			case "running":
				if got := linesWith(weir.Stderr.String(), "case=rewind"); len(got) == 0 {
					t.Error("no partition was rewound to the backup's marks")
				}
				rep := b.clean()
				if want := 20 + 20 + 20 + 20 + 10; rep.Delivered != want {
					t.Errorf("%d delivered, want %d: a, and of b, c and d what can be repeated or came after", rep.Delivered, want)
				}
			case "stopped":
				if got := linesWith(weir.Stderr.String(), "case=lost"); len(got) == 0 {
					t.Error("no partition says that its store was lost")
				}
				// The ledger from before is gone, so the checker cannot judge it; the vendor's log can.
				if got, want := len(b.sandbox.Applied(t)), applied+20+5+5; got != want {
					t.Errorf("%d effects, want %d: the states of c, and all of d", got, want)
				}
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// followRestore does what docs/restore.md says: its first step and the section of one way on, and gives the weir that
// runs then.
func (b *box) followRestore(dir, section string) *harness.Process {
	b.t.Helper()
	b.followSection(dir, "1. Stop, and put the damaged files aside")
	weir := b.followSection(dir, section)
	if weir == nil {
		b.t.Fatalf("docs/restore.md, %s: no weir run", section)
	}
	return weir
}

var codeBlock = regexp.MustCompile("(?s)```sh( run)?\n(.*?)```")

// followSection runs the commands of a section of docs/restore.md in a folder, with the test's connector in place of the
// page's. Of a block that runs weir it gives the process.
func (b *box) followSection(dir, section string) (weir *harness.Process) {
	b.t.Helper()
	page, err := os.ReadFile(filepath.Join(harness.Root(b.t), "docs", "restore.md"))
	if err != nil {
		b.t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(page), "\n## "+section+"\n")
	if !ok {
		b.t.Fatalf("docs/restore.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	blocks := codeBlock.FindAllStringSubmatch(text, -1)
	if len(blocks) == 0 {
		b.t.Fatalf("docs/restore.md, %s: no commands", section)
	}
	for _, m := range blocks {
		if m[1] != "" {
			args := strings.Fields(strings.ReplaceAll(m[2], "plain", b.name))
			if len(args) < 2 || args[0] != "weir" || args[1] != "run" {
				b.t.Fatalf("docs/restore.md, %s: %q does not run weir", section, m[2])
			}
			weir = b.start(args[2:]...)
			continue
		}
		bin := b.t.TempDir()
		if err := os.Symlink(b.weir.Path, filepath.Join(bin, "weir")); err != nil {
			b.t.Fatal(err)
		}
		cmd := exec.CommandContext(b.t.Context(), "sh", "-euc", m[2])
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "WEIR_CONFIG="+b.config, "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			b.t.Fatalf("docs/restore.md, %s: %v\n%s\n%s", section, err, m[2], out)
		}
	}
	return weir
}
