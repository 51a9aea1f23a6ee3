package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/draft"
	"github.com/weirsync/weir/schema"
)

type vendorInitCmd struct {
	*app
	openAPI    string
	name       string
	output     string
	operations []string
}

func newVendorInit(a *app) *cobra.Command {
	c := &vendorInitCmd{app: a}
	cmd := &cobra.Command{
		Use:   "init --openapi FILE",
		Short: "Draft a profile from an OpenAPI document",
		Long: `Draft a vendor profile from an OpenAPI 3 document (YAML or JSON, a file on this machine): base URLs, ways to log in,
operations with their bodies, idempotency headers, documented errors, and suggestions for mappings.

A document does not say what a repeat of a request does, nor what customers, contracts and invoices are to the vendor.
Such lines are marked CHECK. The draft loads, and sends nothing until its routes have steps.`,
		Example: `  weir vendor init --openapi acme-openapi.yaml -o acme.yaml
  weir vendor init --openapi acme.json --operation createCustomer --operation createCharge`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return c.run() },
	}
	fs := cmd.Flags()
	fs.StringVar(&c.openAPI, "openapi", "", "the document")
	fs.StringVar(&c.name, "name", "", "name of the profile; default: made from the document's title")
	fs.StringVarP(&c.output, "output", "o", "", "file to write, which must not exist yet; default: standard output")
	fs.StringArrayVar(&c.operations, "operation", nil, "take only this operation, an operationId or METHOD /path; may be repeated")
	return cmd
}

func (c *vendorInitCmd) run() error {
	if c.openAPI == "" {
		return usageError("--openapi", "missing", "give the vendor's OpenAPI 3 document")
	}
	if c.name != "" && !profileName(c.name) {
		return usageError("--name", fmt.Sprintf("%q is no name of a profile", c.name), "use lower-case words joined by _, such as acme_billing")
	}
	f, _, err := c.Open(c.openAPI)
	if err != nil {
		return yours("--openapi "+c.openAPI, err, "")
	}
	doc, err := io.ReadAll(io.LimitReader(f, draft.BytesMax+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return yours("--openapi "+c.openAPI, err, "")
	}
	set, err := schema.Embedded()
	if err != nil {
		return err
	}
	known := map[string][]string{}
	for _, entity := range set.Entities() {
		for _, f := range set.Reader(entity).Type.Fields {
			known[entity] = append(known[entity], f.Name)
		}
	}
	text, err := draft.Draft(doc, draft.Options{Name: c.name, Source: filepath.Base(c.openAPI), Operations: c.operations, Known: known})
	if err != nil {
		return yours("--openapi "+c.openAPI, err, "")
	}
	if c.output == "" {
		_, err = c.Stdout.Write(text)
		return err
	}
	if _, err := c.readFile(c.output); err == nil {
		return yours("--output "+c.output, errors.New("the file exists"), "choose another name; a profile that somebody has worked on is not overwritten")
	}
	if err := c.writeFile(c.output, string(text)); err != nil {
		return yours("--output "+c.output, err, "")
	}
	c.notef("%s: %d lines to CHECK; then weir vendor test %s", c.output, strings.Count(string(text), "CHECK"), c.output)
	return nil
}

// profileName reports whether s can be the name of a profile.
func profileName(s string) bool {
	for i, r := range s {
		if (r < 'a' || r > 'z') && (i == 0 || r != '_' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}
