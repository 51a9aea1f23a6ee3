package finfusion

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// customer is what the vendor shows of one (section 4.2).
type customer struct {
	ID        string   `json:"id"`
	Email     string   `json:"email"`
	Name      string   `json:"name"`
	CreatedAt string   `json:"created_at"`
	UpdatedAt string   `json:"updated_at,omitempty"` // from the first change on
	Metadata  metadata `json:"metadata"`

	sec int64 // of UpdatedAt, else of CreatedAt
}

func (c *customer) id() string        { return c.ID }
func (c *customer) changed() int64    { return c.sec }
func (c *customer) kind() string      { return "customer" }
func (c *customer) reference() string { return c.Metadata.reference() }
func (c *customer) meta() metadata    { return c.Metadata }
func (c *customer) view() any         { x := *c; return &x }

// customerRow is the persisted form.
type customerRow struct {
	*customer
	Deleted bool `json:"_deleted,omitempty"`
}

func (v *vendor) restoreCustomer(raw json.RawMessage) (err error) {
	row := customerRow{customer: &customer{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	c := row.customer
	if row.Deleted {
		v.customers.drop(c.ID)
		return nil
	}
	stamp := c.UpdatedAt
	if stamp == "" {
		stamp = c.CreatedAt
	}
	if c.sec, err = v.restoreStamp(stamp); err != nil {
		return err
	}
	v.customers.put(c)
	return nil
}

// customerInput is one customer of a request.
type customerInput struct {
	email, name    string
	metadata       metadata
	removed        []string // metadata that a change takes away
	invalid        *core.InvalidError
	reference, key string // for the log
}

func (v *vendor) readCustomer(f core.Fields, path string, all bool) (in customerInput, err error) {
	// Metadata comes first, so that a refusal can be attributed.
	if in.metadata, in.removed, err = readMetadata(f, path); err != nil {
		return in, err
	}
	in.reference, in.key = in.metadata.reference(), in.metadata.text("idempotency_key")
	if in.email, err = f.Text(path, "email", all || f.Has("email")); err != nil {
		return in, err
	}
	if in.email != "" && !core.EmailAddress(in.email) {
		return in, &core.InvalidError{Field: path + "email", Message: "is not an email address"}
	}
	if in.name, err = f.Text(path, "name", all || f.Has("name")); err != nil {
		return in, err
	}
	if utf8.RuneCountInString(in.name) > nameCharsMax {
		return in, &core.InvalidError{Field: path + "name", Message: "is longer than 255 characters"}
	}
	return in, nil
}

// The magic addresses (section 12, sandbox decision).
func (in customerInput) fails() bool { return strings.HasSuffix(in.email, "@fail.test") }
func (in customerInput) slow() bool  { return strings.HasSuffix(in.email, "@slow.test") }

func (v *vendor) parseCustomer(r *core.Request, p *parsed) error {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	in, err := v.readCustomer(f, "", true)
	r.Reference = in.reference
	if in.slow() {
		r.Delay = v.slowBy
	}
	p.in = in
	return err
}

func (v *vendor) createCustomer(r *core.Request, p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(customerInput)
	if in.fails() {
		return v.refuse("API001", "magic address", nil)
	}
	c := v.addCustomer(r, in)
	return core.Answer{Status: http.StatusOK, Body: marshal(c), Effect: core.Applied, Object: c.ID, Rows: []core.Row{{Kind: "customer", Value: customerRow{c, false}}}}
}

func (v *vendor) addCustomer(r *core.Request, in customerInput) *customer {
	c := &customer{ID: v.newID("cust_"), Email: in.email, Name: in.name, Metadata: in.metadata}
	if c.Metadata == nil {
		c.Metadata = metadata{}
	}
	c.sec, c.CreatedAt = v.stamp(r.Now)
	v.customers.put(c)
	return c
}

// batch is the body of POST /v2/customers/batch (section 8).
type batch struct {
	items []customerInput
	goOn  bool // continue_on_error
}

func (v *vendor) parseBatch(r *core.Request, p *parsed) error {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	in := batch{}
	raws, err := f.Array("", "items", true)
	if err != nil {
		return err
	}
	if len(raws) < 1 || len(raws) > BatchMax {
		return &core.InvalidError{Field: "items", Message: "must have 1 to " + strconv.Itoa(BatchMax) + " elements"}
	}
	if in.goOn, err = f.Bool("", "continue_on_error", false); err != nil {
		return err
	}
	for i, raw := range raws {
		path := "items[" + strconv.Itoa(i) + "]."
		item := customerInput{}
		if fields, ok := core.ElementFields(raw); ok {
			var err error
			item, err = v.readCustomer(fields, path, true)
			item.invalid = core.AsInvalid(err)
		} else {
			item.invalid = &core.InvalidError{Field: strings.TrimSuffix(path, "."), Message: "must be an object"}
		}
		if item.slow() {
			r.Delay = v.slowBy
		}
		r.Refs = append(r.Refs, item.reference)
		in.items = append(in.items, item)
	}
	p.in = in
	return nil
}

// result is one element of a batch's answer; data or error is there.
type result struct {
	Index  int        `json:"index"`
	Status int        `json:"status"`
	Data   *customer  `json:"data,omitempty"`
	Error  *errorJSON `json:"error,omitempty"`
}

// createCustomers executes a batch: each item for itself, in order. Unless continue_on_error the first that fails stops
// the rest. Partial success is 200 (section 8).
func (v *vendor) createCustomers(r *core.Request, p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(batch)
	out := struct {
		Results   []result `json:"results"`
		Succeeded int      `json:"succeeded"`
		Failed    int      `json:"failed"`
	}{Results: make([]result, 0, len(in.items))}
	a := core.Answer{Status: http.StatusOK, Effect: core.Rejected}
	for i, x := range in.items {
		line := core.Item{Operation: opCreateCustomer, Reference: x.reference, Key: x.key, Effect: core.Rejected}
		code, message, details := "", "", any(nil)
		failStatus, fails := 0, false
		switch stopped := out.Failed > 0 && !in.goOn; {
		case stopped:
			code, message = "VAL006", "not tried: an earlier item failed"
		case x.invalid != nil:
			code, message, details = "VAL001", "the item is invalid", invalidDetails(x.invalid)
		case x.fails():
			code, message = "API001", "magic address"
		default:
			if failStatus, fails = v.s.FailItem(r, x.reference, x.key); fails {
				code, message = codeOf(failStatus), "fault "+core.FaultPartial
			}
		}
		res := result{Index: i, Status: http.StatusOK}
		if code == "" {
			c := v.addCustomer(r, x)
			res.Data = c
			line.Object, line.Effect, a.Effect = c.ID, core.Applied, core.Applied
			a.Rows = append(a.Rows, core.Row{Kind: "customer", Value: customerRow{c, false}})
			out.Succeeded++
		} else {
			if res.Status = failStatus; !fails {
				_, res.Status = v.classOf(code)
			}
			e := v.errorOf(code, message, details)
			res.Error = &e
			out.Failed++
		}
		line.Status = res.Status
		a.Items = append(a.Items, line)
		out.Results = append(out.Results, res)
	}
	a.Body = marshal(out)
	return a
}

func (v *vendor) parseUpdate(r *core.Request, p *parsed) error {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	in, err := v.readCustomer(f, "", false)
	r.Reference = in.reference
	if in.slow() {
		r.Delay = v.slowBy
	}
	p.in = in
	return err
}

// updateCustomer merges (section 4.2). The same state again changes nothing, updated_at neither.
func (v *vendor) updateCustomer(r *core.Request, p *parsed) core.Answer {
	old, ok := v.customers.byID[r.Object]
	if !ok {
		return v.refuse("VAL003", "no customer has this id", nil)
	}
	if p.invalid != nil {
		a := v.refuseInvalid(p.invalid)
		a.Reference = old.reference()
		return a
	}
	in := p.in.(customerInput)
	if in.fails() {
		return v.refuse("API001", "magic address", nil)
	}
	c := *old
	if in.email != "" {
		c.Email = in.email
	}
	if in.name != "" {
		c.Name = in.name
	}
	c.Metadata = maps.Clone(old.Metadata)
	maps.Copy(c.Metadata, in.metadata)
	for _, name := range in.removed {
		delete(c.Metadata, name)
	}
	if invalid := core.AsInvalid(checkMetadataSize(c.Metadata, "")); invalid != nil {
		return v.refuseInvalid(invalid)
	}
	a := core.Answer{Status: http.StatusOK, Effect: core.Replayed, Reference: c.reference()}
	if c.Email != old.Email || c.Name != old.Name || string(marshal(c.Metadata)) != string(marshal(old.Metadata)) {
		c.sec, c.UpdatedAt = v.stamp(r.Now)
		v.customers.put(&c)
		a.Effect, a.Rows = core.Applied, []core.Row{{Kind: "customer", Value: customerRow{&c, false}}}
	}
	a.Body = marshal(&c)
	return a
}

func (v *vendor) deleteCustomer(r *core.Request) core.Answer {
	c, ok := v.customers.byID[r.Object]
	if !ok {
		return v.refuse("VAL003", "no customer has this id", nil)
	}
	v.customers.drop(c.ID)
	return core.Answer{Status: http.StatusOK, Effect: core.Applied, Reference: c.reference(), Body: marshal(struct {
		ID      string `json:"id"`
		Deleted bool   `json:"deleted"`
	}{c.ID, true}), Rows: []core.Row{{Kind: "customer", Value: customerRow{c, true}}}}
}
