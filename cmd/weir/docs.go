package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newDocsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Hidden:  true,
		Short:   "Print the reference of all commands as Markdown",
		Long:    "Print the reference of all commands as Markdown: the content of docs/cli.md, which a test keeps up to date.",
		Example: "  weir docs > docs/cli.md",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(a.Stdout, commandReference(cmd.Root()))
			return err
		},
	}
}

// commandReference is docs/cli.md.
func commandReference(root *cobra.Command) string {
	root.InitDefaultHelpFlag() // else the text depends on whether a command has been run
	var b strings.Builder
	b.WriteString("# Commands\n\nGenerated from the commands' own help by `weir docs`; do not edit.\n\n")
	writeCommand(&b, root)
	return b.String()
}

func writeCommand(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "## %s\n\n%s.\n\n", cmd.CommandPath(), strings.TrimSuffix(cmd.Short, "."))
	fmt.Fprintf(b, "```\n%s\n```\n\n", cmd.UseLine())
	if cmd.Long != "" {
		fmt.Fprintf(b, "```text\n%s\n```\n\n", strings.TrimSpace(cmd.Long))
	}
	fmt.Fprintf(b, "Examples:\n\n```sh\n%s\n```\n\n", strings.ReplaceAll(strings.TrimPrefix(cmd.Example, "  "), "\n  ", "\n"))
	var rows []string
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			def = "`" + f.DefValue + "`"
		}
		rows = append(rows, fmt.Sprintf("| `--%s` | %s | %s |", f.Name, strings.ReplaceAll(f.Usage, "|", "\\|"), def))
	})
	if len(rows) > 0 {
		b.WriteString("| flag | meaning | default |\n| --- | --- | --- |\n" + strings.Join(rows, "\n") + "\n\n")
	}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			writeCommand(b, sub)
		}
	}
}
