package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/config"
)

func newConfigCommand(a *app) *cobra.Command {
	show := &cobra.Command{
		Use:   "print",
		Short: "Print the effective config",
		Long: `Print the config with every default filled in. Secrets appear as their references, never as values, so the output
can be shared. It is a config file itself and means the same.`,
		Example: `  weir config print
  weir config print --config prod.yaml --json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			text := c.Effective
			if a.asJSON {
				text = c.EffectiveJSON
			}
			out, err := text()
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(out)
			return err
		},
	}
	a.jsonFlag(show, "the config as one JSON object")
	sch := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the config file",
		Long:  "Print the JSON Schema (draft 2020-12) of the config file, for editors and for checks before a deployment.",
		Example: `  weir config schema > weir.schema.json
  # in weir.yaml, for editors: # yaml-language-server: $schema=weir.schema.json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.Stdout, "%s", config.JSONSchema())
			return err
		},
	}
	return group(&cobra.Command{
		Use:   "config",
		Short: "Show the config file's meaning and form",
		Long:  "Show what the config file means with its defaults, or the JSON Schema that describes it.",
		Example: `  weir config print
  weir config schema`,
	}, show, sch)
}
