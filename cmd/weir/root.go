package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weirsync/weir/connector/config"
)

// run executes one invocation and returns its exit code.
func run(ctx context.Context, env *Env) int {
	a := &app{Env: env}
	root := newRoot(a)
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if _, ok := errors.AsType[*failure](err); err != nil && !a.started && !ok {
		err = usageError("command line", err.Error(), "see weir --help") // cobra did not understand it
	}
	printError(env.Stderr, err)
	return exitCode(err)
}

// newRoot builds the command tree.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "Keep vendor systems in step with canonical Kafka events",
		Long: `Weir reads canonical customer, contract and invoice events from Kafka, checks them against versioned Avro
schemas, pushes them to vendor APIs in per-key order under the vendor's quota, and keeps an account of what became
of every one.

Exit codes: 0 done; 1 weir failed; 2 yours: usage, config or data refused; 3 the environment: Kafka, vendor, store
or registry not reachable or not permitted. Precedence of settings: flag, environment, config file, default.`,
		Example: `  weir demo                       # see it work, with nothing installed
  weir check                      # is everything in place?
  weir run                        # deliver
  weir status                     # how does it stand?
  weir trace CUST-1               # what became of this entity's events?`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.started = true
			_, err := a.log() // a wrong level or format is refused by every command
			return err
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	fs := root.PersistentFlags()
	fs.StringVar(&a.configPath, "config", "", "config file (env WEIR_CONFIG, default "+defaultConfig+")")
	fs.StringVar(&a.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&a.logFormat, "log-format", "json", "json or text")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return flagError(cmd, err)
	})
	return group(root,
		newDemoCommand(a),
		newRunCommand(a),
		newCheckCommand(a),
		newStatusCommand(a),
		newTraceCommand(a),
		newParkedCommand(a),
		newPublishCommand(a),
		newVerifyCommand(a),
		newVendorCommand(a),
		newSandboxCommand(a),
		newSchemaCommand(a),
		newBenchCommand(a),
		newBenchPartCommand(a),
		newConfigCommand(a),
		newVersionCommand(a),
		newDocsCommand(a),
	)
}

// flagError says what is wrong with a flag in the words of its user.
func flagError(cmd *cobra.Command, err error) error {
	why, hint := err.Error(), "see "+cmd.CommandPath()+" --help"
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		want := map[string]string{"int": "a whole number", "int64": "a whole number", "int32": "a whole number", "uint64": "a whole number", "uint16": "a whole number",
			"float64": "a number", "bool": "true or false", "duration": "a duration such as 30s"}[e.GetFlag().Value.Type()]
		if want == "" {
			want = "a value that it takes: " + e.Unwrap().Error()
		}
		return usageError("--"+e.GetFlag().Name, fmt.Sprintf("%q is not %s", e.GetValue(), want), hint)
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Nearest(e.GetSpecifiedName(), names); near != "" {
			hint = "did you mean --" + near + "?"
		}
	}
	return usageError("command line", why, hint)
}

// group is a command that only holds others.
func group(cmd *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	cmd.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := "see " + c.CommandPath() + " --help"
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + c.CommandPath() + " " + strings.Join(near, " or ") + "?"
		}
		return usageError("command line", fmt.Sprintf("there is no command %q", c.CommandPath()+" "+args[0]), hint)
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	cmd.AddCommand(sub...)
	return cmd
}

// jsonFlag adds --json; what says what it prints.
func (a *app) jsonFlag(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&a.asJSON, "json", false, "print "+what)
}

// exactly is cobra.ExactArgs with the arguments' names.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			want := "takes no arguments"
			if len(names) > 0 {
				want = "takes " + strings.Join(names, " and ")
			}
			return usageError("command line", fmt.Sprintf("%s %s, got %d", cmd.CommandPath(), want, len(args)), "see "+cmd.CommandPath()+" --help")
		}
		return nil
	}
}
