package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/config"
)

func newSchemaCommand(a *app) *cobra.Command {
	ls := &cobra.Command{
		Use:   "ls",
		Short: "List the schemas that this build reads and writes",
		Long: `List every version of every schema: subject, version, id, Avro fingerprint (CRC-64-AVRO of the canonical form) and
file. With --config given, or a weir.yaml in place, its schema.dir is listed too.`,
		Example: `  weir schema ls
  weir schema ls --json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.optionalConfig()
			if err != nil {
				return err
			}
			c, err := a.loadContract(cfg)
			if err != nil {
				return err
			}
			rows := c.rows()
			if a.asJSON {
				return a.printJSON(rows)
			}
			w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SUBJECT\tVERSION\tID\tFINGERPRINT\tFILE")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", r.Subject, r.Version, r.ID, r.Fingerprint, r.File)
			}
			return w.Flush()
		},
	}
	a.jsonFlag(ls, "a JSON array of {subject, version, id, fingerprint, file}")
	return group(&cobra.Command{
		Use:     "schema",
		Short:   "Look at the schemas of canonical events",
		Long:    "Look at the Avro schemas that canonical events are written and read with.",
		Example: "  weir schema ls\n  weir schema check ./schemas",
	}, ls, newSchemaCheckCommand(a))
}

// optionalConfig is the config, nil if none was named and there is no default file.
func (a *app) optionalConfig() (*config.Config, error) {
	if a.configPath == "" && a.Getenv("WEIR_CONFIG") == "" {
		f, _, err := a.Open(defaultConfig)
		if err != nil {
			return nil, nil
		}
		f.Close()
	}
	return a.config()
}
