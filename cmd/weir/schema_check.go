package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/schema"
)

// A schemaCheck is one file of `weir schema check --json`.
type schemaCheck struct {
	schemaRow
	Reads []int        `json:"reads"` // older versions
	Ahead []aheadCheck `json:"ahead"` // older versions whose builds wait at events of this one
}

// An aheadCheck says why builds whose newest version is Version cannot read all events of a newer one.
type aheadCheck struct {
	Version int      `json:"version"`
	Reasons []string `json:"reasons"`
}

func newSchemaCheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check PATH",
		Short: "Check new schema files against those that this build has",
		Long: `Check a schema file <entity>.v<n>.avsc, or all of a folder, together with the schemas of this build and those of the
config's schema.dir: names and ids, the envelope, defaults, that each version reads what every older one wrote
(BACKWARD_TRANSITIVE), and that the rules still fit. Files that this build has already are passed over. It also says at
which versions older builds wait (schema_ahead) until they are upgraded; that is no fault. Exit code 2 if a file is
refused, with every reason.`,
		Example: `  weir schema check customer.v3.avsc
  weir schema check ./schemas --json`,
		Args: exactly("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.optionalConfig()
			if err != nil {
				return err
			}
			have, err := a.loadContract(cfg)
			if err != nil {
				return err
			}
			files, err := a.schemaFiles(args[0], have)
			if err != nil {
				return err
			}
			c, err := a.loadContract(cfg, files)
			if err != nil {
				return err
			}
			return a.printSchemaChecks(c.checks(files.names))
		},
	}
	a.jsonFlag(cmd, "a JSON array of {subject, version, id, fingerprint, file, reads, ahead: [{version, reasons}]}")
	return cmd
}

// newFiles are the schema files of a folder that a contract does not have yet, beside the folder's rule files.
type newFiles struct {
	fs.FS
	names []string
	rules bool
}

// Glob implements fs.GlobFS, which is how sets and rules look for their files.
func (f newFiles) Glob(pattern string) ([]string, error) {
	if pattern == "*.avsc" {
		return f.names, nil
	}
	if !f.rules {
		return nil, nil
	}
	return fs.Glob(f.FS, pattern)
}

// schemaFiles finds what is new at a path: a file alone, or a folder.
func (a *app) schemaFiles(path string, have *contract) (newFiles, error) {
	const hint = "give a file <entity>.v<n>.avsc, or a folder with such files"
	f := newFiles{FS: a.Dir(path), rules: true}
	names, err := fs.Glob(f.FS, "*.avsc")
	if strings.HasSuffix(path, ".avsc") {
		f = newFiles{FS: a.Dir(filepath.Dir(path))}
		names = []string{filepath.Base(path)}
	}
	if err == nil && len(names) == 0 {
		if _, err = fs.ReadDir(f.FS, "."); err == nil {
			err = errors.New("there is no .avsc file in it")
		}
	}
	if err != nil {
		return newFiles{}, yours("schema check "+path, err, hint)
	}
	known := map[string]string{}
	for _, e := range have.set.Entities() {
		for _, s := range have.set.Versions(e) {
			known[s.File] = s.Text
		}
	}
	for _, n := range names {
		text, err := fs.ReadFile(f.FS, n)
		if err != nil {
			return newFiles{}, yours("schema check "+path, err, hint)
		}
		if old, ok := known[n]; !ok || old != string(text) {
			f.names = append(f.names, n)
		}
	}
	f.rules = f.rules && len(f.names) > 0 // of a folder that is loaded already, so are its rules
	return f, nil
}

// checks describes the files of a contract that was loaded, which is to say: that are good.
func (c *contract) checks(files []string) []schemaCheck {
	out := []schemaCheck{}
	for _, row := range c.rows() {
		if !slices.Contains(files, row.File) {
			continue
		}
		check := schemaCheck{schemaRow: row, Reads: []int{}, Ahead: []aheadCheck{}}
		entity, _, _ := strings.Cut(row.File, ".") // <entity>.v<n>.avsc, or there were no set
		vs := c.set.Versions(entity)
		for _, old := range vs[:row.Version-1] {
			check.Reads = append(check.Reads, old.Version)
			var reasons []string
			for _, p := range schema.Compatible(vs[row.Version-1].Type, old.Type) {
				reasons = append(reasons, p.String())
			}
			if reasons != nil {
				check.Ahead = append(check.Ahead, aheadCheck{old.Version, reasons})
			}
		}
		out = append(out, check)
	}
	return out
}

func (a *app) printSchemaChecks(checks []schemaCheck) error {
	if a.asJSON {
		return a.printJSON(checks)
	}
	if len(checks) == 0 {
		_, err := fmt.Fprintln(a.Stdout, "no new file: this build has them all")
		return err
	}
	var b strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&b, "%s: good: %s version %d, id %d", c.File, c.Subject, c.Version, c.ID)
		if len(c.Reads) > 0 {
			fmt.Fprintf(&b, ", reads all that versions 1 to %d wrote", c.Version-1)
		}
		b.WriteByte('\n')
		for _, h := range c.Ahead {
			fmt.Fprintf(&b, "  builds with version %d wait at it: %s\n", h.Version, strings.Join(h.Reasons, "; "))
		}
		if len(c.Ahead) > 0 {
			b.WriteString("  upgrade connectors before publishers\n")
		}
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}
