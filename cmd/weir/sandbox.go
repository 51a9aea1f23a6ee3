package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/sandbox/core"
)

func newSandboxCommand(a *app) *cobra.Command {
	var o sandbox.Options
	var listen, admin string
	var switches, keys []string
	cmd := &cobra.Command{
		Use:   "sandbox VENDOR...",
		Short: "Serve a vendor's API on this machine",
		Long: `Serve HTTP servers that behave as the vendors' sheets say, with an admin interface each: GET /effects lists what
happened to which object, POST /faults makes trouble. For every vendor one JSON line {vendor, url, admin_url} is
printed as soon as it listens. It runs until SIGINT or SIGTERM.

plain is a vendor of our own with PUT /things/{id} and POST /payments, for what no real vendor can show.`,
		Example: `  weir sandbox pushcash
  weir sandbox finfusion --switch idempotency=off --fault partial=rate:0.1,status:503
  weir sandbox pushcash plain --limit-scale 100
  weir sandbox pushcash --listen 127.0.0.1:9101 --admin-listen 127.0.0.1:9102 --fault throttle=rate:0.1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("command line", "names no vendor", "use one of "+strings.Join(sandbox.Vendors(), ", "))
			}
			for i, v := range args {
				if !slices.Contains(sandbox.Vendors(), v) {
					return usageError("sandbox "+v, "there is no such sandbox", "use one of "+strings.Join(sandbox.Vendors(), ", "))
				}
				if slices.Contains(args[:i], v) {
					return usageError("sandbox "+v, "named twice", "name each vendor once")
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, vendors []string) error {
			var err error
			if o.Switches, err = keyValues("--switch", switches); err != nil {
				return err
			}
			for _, k := range keys {
				key, err := core.ParseKey(k)
				if err != nil {
					return usageError("--key", err.Error(), "use --key SECRET, or SECRET@NOTBEFORE..NOTAFTER with RFC 3339 times")
				}
				o.Keys = append(o.Keys, key)
			}
			if len(vendors) > 1 && (!anyPort(listen) || !anyPort(admin)) {
				return usageError("sandbox", "several vendors cannot share one port", "leave --listen and --admin-listen at port 0, or start one command for each")
			}
			if len(vendors) > 1 && o.EffectsFile != "" {
				return usageError("sandbox", "several vendors cannot share one effects file", "start one command for each")
			}
			if o.LimitScale <= 0 {
				return usageError("--limit-scale", fmt.Sprintf("%v is not above 0", o.LimitScale), "use a number such as 10 or 0.5")
			}
			if o.Log, err = a.log(); err != nil {
				return err
			}
			return a.runSandboxes(cmd.Context(), vendors, o, listen, admin)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&listen, "listen", "127.0.0.1:0", "address of the vendor's API; port 0 picks a free one")
	fs.StringVar(&admin, "admin-listen", "127.0.0.1:0", "address of the admin interface")
	fs.Float64Var(&o.LimitScale, "limit-scale", 1, "multiply all vendor limits")
	fs.StringArrayVar(&o.Faults, "fault", nil, "switch a fault on from the start, such as throttle=rate:0.1; may be repeated")
	fs.StringVar(&o.EffectsFile, "effects-file", "", "also write the effects log to this file, as JSON lines")
	fs.StringArrayVar(&keys, "key", nil, "accept this credential alone, SECRET[@NOTBEFORE[..NOTAFTER]]; may be repeated; without it any is accepted")
	fs.StringArrayVar(&switches, "switch", nil, "set a switch of the vendor, NAME=VALUE; may be repeated")
	return cmd
}

func (a *app) runSandboxes(ctx context.Context, vendors []string, o sandbox.Options, listen, admin string) (err error) {
	ctx, stop := a.interruptible(ctx, nil)
	defer stop()
	for _, v := range vendors {
		s, serr := sandbox.New(v, o)
		if serr != nil {
			return yours("sandbox "+v, serr, "")
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		l, serr := s.Start(ctx, listen, admin)
		if serr != nil {
			return yours("sandbox "+v, serr, "use a free port of 127.0.0.1, or port 0")
		}
		line, merr := json.Marshal(l)
		if merr != nil {
			return merr
		}
		if _, werr := fmt.Fprintf(a.Stdout, "%s\n", line); werr != nil {
			return fmt.Errorf("print address of sandbox %s: %w", v, werr)
		}
	}
	<-ctx.Done()
	return nil
}

func anyPort(addr string) bool { return addr == "" || strings.HasSuffix(addr, ":0") }

// keyValues reads NAME=VALUE flags.
func keyValues(flag string, list []string) (map[string]string, error) {
	out := make(map[string]string, len(list))
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usageError(flag, fmt.Sprintf("%q has no name or no value", s), "use "+flag+" NAME=VALUE")
		}
		if _, twice := out[k]; twice {
			return nil, usageError(flag, fmt.Sprintf("%q is set twice", k), "set it once")
		}
		out[k] = v
	}
	return out, nil
}
