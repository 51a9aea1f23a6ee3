package sample

import (
	"strconv"
	"time"
)

const (
	crm     = "crm"
	billing = "billing"
)

type customer struct {
	entity
	n           int // number, from 1
	owed        bool
	tenant      string
	first, last name
	email       string
	phone       string
	address     place
	street      string
	extensions  map[string]string
	granted     time.Time
	status      string
	contracts   []*contract
	open        []*invoice // not at the end of their way
}

type contract struct {
	entity
	amount   int64
	status   string
	start    time.Time
	interval string
	units    int64 // included in the amount
}

type invoice struct {
	entity
	contract *contract // nil: none
	first    int64     // amount of the first version
	amount   int64
	way      []turn
	at       int // steps of the way that are done
	issued   time.Time
	due      time.Time
}

// A turn is one step on the way of an invoice.
type turn struct {
	status string
	amount change
	what   string // event type
	expect string
}

// A change says what becomes of the amount.
type change byte

const (
	keep change = iota
	other
	back // to that of the first version
)

// The expectations are those of Push Cash with a profile after vendor sheet pushcash, section 15, each event taken
// alone; under load several states of one invoice fold into the newest (superseded).
const (
	expectCreate = "payment intent is created"
	expectChange = "intent is cancelled, then created with the new amount"
	expectBack   = "intent is cancelled, then created with the first amount: a new effect, not a repeat of the first"
	expectCancel = "open intent is cancelled"
	expectAgain  = "intent is cancelled, then created again"
	expectDraft  = "ignored: draft"
)

// makeWays makes the lives of invoices. The first is the one that content hashes get wrong.
func makeWays() [][]turn {
	open := turn{"open", keep, "opened", expectCreate}
	return [][]turn{
		{open, {"open", other, "amount_changed", expectChange}, {"open", back, "amount_changed", expectBack}, {"paid", keep, "paid", expectCancel}},
		{open, {"open", other, "amount_changed", expectChange}, {"open", back, "amount_changed", expectBack}, {"void", keep, "voided", expectCancel}},
		{open, {"paid", keep, "paid", expectCancel}},
		{open, {"issued", keep, "issued", expectAgain}, {"overdue", keep, "overdue", expectAgain}, {"paid", keep, "paid", expectCancel}},
		{open, {"open", other, "amount_changed", expectChange}, {"void", keep, "voided", expectCancel}},
		{{"draft", keep, "drafted", expectDraft}, {"issued", keep, "issued", expectCreate}, {"paid", keep, "paid", expectCancel}},
	}
}

// The way that an invoice takes: open, changed, back, closed is the commonest.
func (g *Generator) way() []turn {
	ws := g.tables.ways
	if n := g.rng.IntN(len(ws) + 2); n < len(ws) {
		return ws[n]
	}
	return ws[0]
}

// newCustomer makes up a person in the US with all that Push Cash asks for (vendor sheet pushcash, section 4.1).
func (g *Generator) newCustomer(n int) *customer {
	c := &customer{entity: newEntity("cust_", n+1, 6), n: n + 1, status: "active"}
	c.tenant = g.tables.tenants[c.n%len(g.tables.tenants)]
	c.first, c.last = one(g.rng, g.tables.first), one(g.rng, g.tables.last)
	c.granted = g.at.Add(-time.Duration(1+g.rng.IntN(365*24)) * time.Hour)
	g.move(c)
	g.newContact(c)
	kind := one(g.rng, g.tables.governmentIDs)
	born := time.Date(1945+g.rng.IntN(60), time.Month(1+g.rng.IntN(12)), 1+g.rng.IntN(28), 0, 0, 0, 0, time.UTC)
	c.extensions = map[string]string{"date_of_birth": date(born), "government_id_type": kind,
		"government_id_last4": number("", g.rng.IntN(10_000), 4), "identity_verified": "true"}
	if kind == "drivers_license" || kind == "state_id" {
		c.extensions["government_id_state"] = c.address.state
	}
	return c
}

func (g *Generator) move(c *customer) {
	c.address = one(g.rng, g.tables.places)
	c.street = strconv.Itoa(1+g.rng.IntN(9_899)) + " " + one(g.rng, g.tables.streets)
}

func (g *Generator) newContact(c *customer) {
	c.email = c.first.plain + "." + c.last.plain + "." + strconv.Itoa(c.n) + "@" + one(g.rng, g.tables.domains)
	c.phone = "+1" + c.address.areaCode + "55501" + number("", g.rng.IntN(100), 2)
}

func (g *Generator) createCustomer(c *customer) Item {
	expect := "user is created"
	switch {
	case c.deleted:
		c.deleted = false
		c.status = "active"
		expect = "comes back: the tag leads to the user that exists"
	case c.owed:
		c.owed = false
		expect = "user is created; its invoices that wait go on"
	}
	return g.customerItem(c, "created", expect)
}

func (g *Generator) customerItem(c *customer, what, expect string) Item {
	m := g.envelope(&c.entity, "customer", crm, what, c.tenant)
	m["customer_id"] = c.id
	m["kind"] = "person"
	m["legal_name"] = c.first.text + " " + c.last.text
	m["first_name"] = c.first.text
	m["last_name"] = c.last.text
	m["email"] = c.email
	m["phone"] = c.phone
	m["locale"] = "en-US"
	m["billing_address"] = map[string]any{"line1": c.street, "line2": nil, "city": c.address.city, "region": c.address.state,
		"postal_code": c.address.zip, "country": "US"}
	m["currency"] = "USD"
	m["data_region"] = "us"
	m["status"] = c.status
	m["consents"] = []any{map[string]any{"purpose": "payments", "reference": "consent_" + c.id, "granted_at": stamp(c.granted), "revoked_at": nil}}
	ext := make(map[string]any, len(c.extensions))
	for k, v := range c.extensions {
		ext[k] = v
	}
	m["extensions"] = map[string]any{"pushcash": ext}
	if g.o.PaymentMethods {
		m["extensions"] = map[string]any{"pushcash": ext, "finfusion": map[string]any{"payment_method_id": "pm_test_ok"}}
	}
	return Item{Entity: "customer", Key: c.id, Event: m, Expect: expect}
}

func (g *Generator) updateCustomer(c *customer) Item {
	what, expect := "updated", "ignored: the vendor cannot change a user (unsupported_update)"
	switch g.rng.IntN(5) {
	case 0:
		what, expect = "touched", "nothing changed but the version"
	case 1:
		g.move(c)
	case 2:
		c.last = one(g.rng, g.tables.last)
	default:
		g.newContact(c)
	}
	return g.customerItem(c, what, expect)
}

func (g *Generator) newContract(c *customer) Item {
	g.contracts++
	k := &contract{entity: newEntity("con_", g.contracts, 6), amount: g.amount(), status: "active", start: g.at, interval: one(g.rng, g.tables.intervals)}
	k.units = 100 * int64(g.contracts%40) // by the number, not by chance: events of a seed stay what they were
	c.contracts = append(c.contracts, k)
	return g.contractItem(c, k, "signed")
}

func (g *Generator) contractItem(c *customer, k *contract, what string) Item {
	m := g.envelope(&k.entity, "contract", billing, what, c.tenant)
	m["contract_id"] = k.id
	m["customer_id"] = c.id
	m["status"] = k.status
	m["start_date"] = date(k.start)
	m["end_date"] = nil
	if k.status == "cancelled" {
		m["end_date"] = date(g.at)
	}
	m["amount_minor"] = k.amount
	m["currency"] = "USD"
	m["billing_period"] = k.interval
	m["included_units"] = k.units
	m["extensions"] = map[string]any{}
	return Item{Entity: "contract", Key: k.id, Event: m, Expect: "ignored: the vendor has no contracts (no_counterpart)"}
}

func (g *Generator) updateContract(c *customer, k *contract) Item {
	if k.status != "cancelled" && g.rng.IntN(4) == 0 {
		k.status = "cancelled"
		return g.contractItem(c, k, "cancelled")
	}
	k.amount = g.amount()
	return g.contractItem(c, k, "changed")
}

func (g *Generator) newInvoice(c *customer) Item {
	g.invoices++
	v := &invoice{entity: newEntity("inv_", g.invoices, 6), way: g.way(), issued: g.at, due: g.at.AddDate(0, 0, 14)}
	v.first = g.amountOrMagic()
	v.amount = v.first
	if n := len(c.contracts); n > 0 {
		if k := c.contracts[g.rng.IntN(n)]; !k.deleted {
			v.contract = k
		}
	}
	c.open = append(c.open, v)
	return g.nextTurn(c, len(c.open)-1)
}

// nextTurn takes an invoice one step further on its way.
func (g *Generator) nextTurn(c *customer, at int) Item {
	v := c.open[at]
	t := v.way[v.at]
	switch t.amount {
	case other:
		for before := v.amount; v.amount == before; {
			v.amount = g.amountOrMagic()
		}
	case back:
		v.amount = v.first
	}
	if v.at++; v.at == len(v.way) {
		c.close(at)
	}
	it := g.invoiceItem(c, v, t.status, t.what, t.expect)
	if s := magicEffect(v.amount); s != "" && t.status != "paid" && t.status != "void" && t.status != "draft" {
		it.Expect += "; this amount: " + s
	}
	return it
}

// close takes an invoice out of the open ones.
func (c *customer) close(at int) {
	last := len(c.open) - 1
	c.open[at] = c.open[last]
	c.open[last] = nil
	c.open = c.open[:last]
}

func (g *Generator) invoiceItem(c *customer, v *invoice, status, what, expect string) Item {
	m := g.envelope(&v.entity, "invoice", billing, what, c.tenant)
	m["invoice_id"] = v.id
	m["contract_id"] = nil
	if v.contract != nil {
		m["contract_id"] = v.contract.id
	}
	m["customer_id"] = c.id
	m["purchase_order"] = nil
	if v.contract != nil {
		m["purchase_order"] = "PO-" + v.contract.id
	}
	m["status"] = status
	m["currency"] = "USD"
	m["total_minor"] = v.amount
	tax := v.amount / 12
	m["tax_minor"] = tax
	m["line_items"] = g.lines(v, v.amount-tax)
	m["issued_at"] = stamp(v.issued)
	if status == "draft" {
		m["issued_at"] = nil
	}
	m["due_at"] = stamp(v.due)
	m["paid_at"] = nil
	if status == "paid" {
		m["paid_at"] = stamp(g.at)
	}
	m["extensions"] = map[string]any{}
	return Item{Entity: "invoice", Key: v.id, Event: m, Expect: expect}
}

// lines are one to three lines that add up to net.
func (g *Generator) lines(v *invoice, net int64) []any {
	var out []any
	line := func(what string, quantity, unit int64) {
		out = append(out, map[string]any{"line_id": number("line_", len(out)+1, 1), "description": what, "quantity": quantity, "unit_price_minor": unit, "amount_minor": quantity * unit})
		net -= quantity * unit
	}
	// By the id, not by chance: the lines of one invoice stay alike over its versions.
	if n := len(v.id); v.id[n-1]%2 == 0 && net > 1_000 {
		line("Usage", 1+int64(v.id[n-1]-'0'), net/20)
	}
	if n := len(v.id); v.id[n-2]%3 == 0 && net > 1_000 {
		line("Support", 1, net/4)
	}
	line("Subscription", 1, net)
	return out
}

// foreignInvoice is valid, and not in US dollars.
func (g *Generator) foreignInvoice(c *customer) Item {
	g.invoices++
	v := &invoice{entity: newEntity("inv_", g.invoices, 6), issued: g.at, due: g.at.AddDate(0, 0, 30)}
	v.first = g.amount()
	v.amount = v.first
	it := g.invoiceItem(c, v, "open", "opened", "parked: unsupported_currency")
	it.Event["currency"] = one(g.rng, g.tables.currencies)
	return it
}

// refusedCustomer is valid, and not what Push Cash takes. It never gets an invoice, so that it holds up nobody.
func (g *Generator) refusedCustomer() Item {
	g.extra++
	c := g.newCustomer(g.o.Customers + g.extra - 1)
	it := g.createCustomer(c)
	e := it.Event
	switch g.rng.IntN(4) {
	case 0:
		e["kind"], e["legal_name"], e["first_name"], e["last_name"] = "organisation", one(g.rng, g.tables.companies), nil, nil
		it.Expect = "parked: not_a_person"
	case 1:
		a := one(g.rng, g.tables.abroad)
		e["billing_address"] = map[string]any{"line1": "Hauptstr. 1", "line2": nil, "city": a.city, "region": nil, "postal_code": a.zip, "country": a.state}
		it.Expect = "parked: the address is outside the US"
	case 2:
		e["email"] = nil
		it.Expect = "parked: the mail address is missing"
	default:
		e["extensions"] = map[string]any{}
		it.Expect = "parked: the identity is missing (strict profile)"
	}
	return it
}

// invalid decodes and breaks a rule (schema/rules).
func (g *Generator) invalid(c *customer, known bool) Item {
	broken := func(it Item, rule string) Item {
		it.Rule, it.Expect = rule, "dead-lettered: breaks rule "+rule
		return it
	}
	if known && g.rng.IntN(2) == 0 {
		it := g.foreignInvoice(c)
		if g.rng.IntN(2) == 0 {
			it.Event["currency"] = "USD"
			it.Event["total_minor"] = it.Event["total_minor"].(int64) + 1
			return broken(it, "invoice.total")
		}
		it.Event["currency"] = "usd"
		return broken(it, "invoice.currency")
	}
	g.extra++
	it := g.createCustomer(g.newCustomer(g.o.Customers + g.extra - 1))
	if g.rng.IntN(2) == 0 {
		it.Event["email"] = "nobody at example.com"
		return broken(it, "customer.email")
	}
	it.Event["currency"] = "Dollar"
	return broken(it, "customer.currency")
}

// update changes something of the customer's: mostly an open invoice.
func (g *Generator) update(c *customer) Item {
	switch r := g.rng.IntN(10); {
	case r < 6 && len(c.open) > 0:
		return g.nextTurn(c, g.rng.IntN(len(c.open)))
	case r < 8 && len(c.contracts) > 0:
		return g.updateContract(c, c.contracts[g.rng.IntN(len(c.contracts))])
	}
	return g.updateCustomer(c)
}

// delete deletes an open invoice, else a contract, else the customer, which has nothing open then.
func (g *Generator) delete(c *customer) Item {
	var it Item
	switch {
	case len(c.open) > 0:
		at := g.rng.IntN(len(c.open))
		v := c.open[at]
		c.close(at)
		it = g.invoiceItem(c, v, "open", "deleted", expectCancel)
		v.deleted = true
	case len(c.contracts) > 0:
		last := len(c.contracts) - 1
		k := c.contracts[last]
		c.contracts = c.contracts[:last]
		it = g.contractItem(c, k, "deleted")
		k.deleted = true
	default:
		c.status = "closed"
		it = g.customerItem(c, "deleted", "ignored: the vendor cannot delete a user (no_counterpart)")
		c.deleted = true
	}
	it.Event["operation"] = "delete"
	if g.deletes++; g.deletes%2 == 0 {
		e := it.Event
		text := func(name string) string { s, _ := e[name].(string); return s }
		it.Headers = []Header{{"ce_id", text("event_id")}, {"ce_type", text("event_type")}, {"ce_source", text("source_system")},
			{"ce_time", text("occurred_at")}, {"ce_tenant", text("tenant")}}
		it.Event = nil
		it.Expect = "tombstone; " + it.Expect
	}
	return it
}

// amount is an ordinary one, 5 to 2,500 dollars: within what the sandbox takes (vendor sheet pushcash, section 4.2),
// and without an effect of its own.
func (g *Generator) amount() int64 {
	a := int64(500 + g.rng.IntN(249_501))
	for a == 40001 || a == 40002 || a == 20200 || magicEffect(a) != "" {
		a++
	}
	return a
}

func (g *Generator) amountOrMagic() int64 {
	if g.chance(g.o.MagicShare) {
		return one(g.rng, g.tables.magic)
	}
	return g.amount()
}

// magicEffect is what an amount makes the sandbox do (vendor sheet pushcash, section 13), "" for ordinary ones.
func magicEffect(amount int64) string {
	switch amount {
	case 50001:
		return "commits, then answers 500"
	case 50002:
		return "answers 500 without committing, for ever: parked as exhausted"
	case 50401:
		return "commits, then closes the connection"
	case 42901:
		return "429 once, then normal"
	}
	return ""
}
