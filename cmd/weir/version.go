package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A buildInfo says which build runs.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Time     string `json:"time"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// readBuild reads what the Go toolchain wrote into the binary.
func readBuild() buildInfo {
	b := buildInfo{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func newVersionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
		Long:  "Print the version, revision and toolchain of this build.",
		Example: `  weir version
  weir version --json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if a.asJSON {
				return a.printJSON(b)
			}
			fmt.Fprintf(a.Stdout, "weir %s %s %s\n", b.Version, b.Go, b.Platform)
			if b.Revision != "" {
				fmt.Fprintf(a.Stdout, "revision %s of %s (modified: %t)\n", b.Revision, b.Time, b.Modified)
			}
			return nil
		},
	}
	a.jsonFlag(cmd, "one JSON object {version, revision, time, modified, go, platform}")
	return cmd
}
