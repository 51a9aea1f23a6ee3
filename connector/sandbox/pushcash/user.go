package pushcash

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

func userStatuses() []string { return []string{"created", "enabled", "suspended", "disabled"} }

// user is what GET /user/{id} shows (section 4.1).
type user struct {
	ID                 string        `json:"id"`
	Tag                *string       `json:"tag"`
	Status             string        `json:"status"`
	Name               personName    `json:"name"`
	Address            address       `json:"address"`
	Email              string        `json:"email"`
	PhoneNumber        *string       `json:"phone_number"`
	DateOfBirth        *string       `json:"date_of_birth"`
	GovernmentID       *governmentID `json:"government_id"`
	PaymentCredentials []credential  `json:"payment_credentials"`
	Limits             userLimits    `json:"limits"`
	CreatedAt          string        `json:"created_at"`
	ms                 int64         // CreatedAt in Unix milliseconds
	sum                bodySum       // of the body that made it
	byBody             bool          // recognised by its body: it came without a tag
}

type personName struct {
	First string `json:"first"`
	Last  string `json:"last"`
}

type address struct {
	AddressLine1       string `json:"address_line_1"`
	Locality           string `json:"locality"`
	AdministrativeArea string `json:"administrative_area"`
	PostalCode         string `json:"postal_code"`
	Country            string `json:"country"`
}

type governmentID struct {
	Type  string  `json:"type"`
	Last4 string  `json:"last4"`
	State *string `json:"state"`
}

type userLimits struct {
	DailyLimit int64  `json:"daily_limit"`
	Currency   string `json:"currency"`
}

type credential struct {
	ID            string  `json:"id"`
	CreatedAt     string  `json:"created_at"`
	CardLast4     string  `json:"card_last4"`
	Authenticated bool    `json:"authenticated"`
	Type          string  `json:"type"`
	AccountLast4  *string `json:"account_last4"`
	BankName      *string `json:"bank_name"`
}

type credentialOwner struct {
	user  *user
	last4 string
}

func (u *user) id() string     { return u.ID }
func (u *user) created() int64 { return u.ms }
func (u *user) status() string { return u.Status }
func (u *user) reference() string {
	if u.Tag == nil {
		return ""
	}
	return *u.Tag
}
func (u *user) view() any {
	c := *u
	c.PaymentCredentials = slices.Clip(u.PaymentCredentials)
	return &c
}

// userRow is the persisted form.
type userRow struct {
	*user
	Sum    string `json:"_sum"`
	ByBody bool   `json:"_by_body"`
}

func (u *user) row() core.Row {
	return core.Row{Kind: "user", Value: userRow{u, hex.EncodeToString(u.sum[:]), u.byBody}}
}

func (v *vendor) restoreUser(raw json.RawMessage) error {
	row := userRow{user: &user{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	u := row.user
	if err := restoreStamp(v, u.CreatedAt, &u.ms, row.Sum, &u.sum); err != nil {
		return err
	}
	u.byBody = row.ByBody
	v.addUser(u)
	for _, c := range u.PaymentCredentials {
		v.credentials[c.ID] = credentialOwner{u, c.CardLast4}
	}
	return nil
}

// restoreStamp reads back the internal fields that all rows have.
func restoreStamp(v *vendor, createdAt string, ms *int64, sumHex string, sum *bodySum) error {
	t, err := time.Parse(timeLayout, createdAt)
	if err != nil {
		return err
	}
	*ms = t.UnixMilli()
	v.lastMS = max(v.lastMS, *ms)
	b, err := hex.DecodeString(sumHex)
	if err != nil {
		return err
	}
	copy(sum[:], b)
	return nil
}

func (v *vendor) addUser(u *user) {
	v.users.put(u)
	switch {
	case u.Tag != nil:
		v.userByTag[*u.Tag] = u
	case u.byBody:
		v.userByBody[u.sum] = u
	}
}

// parseUser reads the body of POST /user. The tag alone decides about a repeat, so it is read even if the rest is
// invalid.
func (v *vendor) parseUser(r *core.Request, p *parsed) error {
	if r.Key != "" {
		r.Key = "" // deprecated and not read any more (section 5)
		p.in = deprecatedHeader{}
	}
	p.sum = sumOf(r.Body)
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	in := &user{}
	in.Tag, err = tag(f)
	if err != nil {
		return err
	}
	if in.Tag != nil {
		r.Key, r.Reference = *in.Tag, *in.Tag
		r.Dedup = "user\x00" + *in.Tag
	} else if v.dedupeBody {
		r.Dedup = "user body\x00" + string(p.sum[:])
	}
	_, deprecated := p.in.(deprecatedHeader)
	p.in = userInput{in, deprecated}
	return v.readUser(f, in)
}

type deprecatedHeader struct{}

type userInput struct {
	user       *user
	deprecated bool
}

// tag reads the caller's own id (sections 4.1 and 4.3).
func tag(f core.Fields) (*string, error) {
	if !f.Has("tag") {
		return nil, nil
	}
	t, err := f.Text("", "tag", true)
	if err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(t) > keyCharsMax {
		return nil, &core.InvalidError{Field: "tag", Message: "is longer than 255 characters"}
	}
	return &t, nil
}

// a textField is one string of an object and where it goes.
type textField struct {
	name string
	into *string
}

func readTexts(f core.Fields, path string, fields ...textField) error {
	for _, t := range fields {
		s, err := f.Text(path, t.name, true)
		if err != nil {
			return err
		}
		*t.into = s
	}
	return nil
}

func (v *vendor) readUser(f core.Fields, in *user) error {
	o, err := f.Object("", "name", true)
	if err != nil {
		return err
	}
	if err := readTexts(o, "name.", textField{"first", &in.Name.First}, textField{"last", &in.Name.Last}); err != nil {
		return err
	}
	if o, err = f.Object("", "address", true); err != nil {
		return err
	}
	a := &in.Address
	if err := readTexts(o, "address.", textField{"address_line_1", &a.AddressLine1}, textField{"locality", &a.Locality},
		textField{"administrative_area", &a.AdministrativeArea}, textField{"postal_code", &a.PostalCode}, textField{"country", &a.Country}); err != nil {
		return err
	}
	switch {
	case !stateCode(a.AdministrativeArea):
		return &core.InvalidError{Field: "address.administrative_area", Message: "must be a two-letter state code"}
	case !postalCode(a.PostalCode):
		return &core.InvalidError{Field: "address.postal_code", Message: "must be 5 digits, or 5 and 4 with a hyphen"}
	case a.Country != "US":
		return &core.InvalidError{Field: "address.country", Message: "must be US"}
	}
	if in.Email, err = f.Text("", "email", true); err != nil {
		return err
	}
	if !core.EmailAddress(in.Email) {
		return &core.InvalidError{Field: "email", Message: "is not an email address"}
	}
	if in.PhoneNumber, err = optionalText(f, "phone_number", false); err != nil {
		return err
	}
	if in.DateOfBirth, err = optionalText(f, "date_of_birth", !v.lean); err != nil {
		return err
	}
	if in.DateOfBirth != nil {
		if _, err := time.Parse(time.DateOnly, *in.DateOfBirth); err != nil {
			return &core.InvalidError{Field: "date_of_birth", Message: "must be a date such as 1990-12-31"}
		}
	}
	if in.GovernmentID, err = v.readGovernmentID(f); err != nil {
		return err
	}
	_, err = f.Bool("", "identity_verified", !v.lean)
	return err
}

func (v *vendor) readGovernmentID(f core.Fields) (*governmentID, error) {
	o, err := f.Object("", "government_id", !v.lean)
	if err != nil || o == nil {
		return nil, err
	}
	g := &governmentID{}
	if err := readTexts(o, "government_id.", textField{"type", &g.Type}, textField{"last4", &g.Last4}); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"drivers_license", "passport", "state_id", "military_id", "ssn"}, g.Type) {
		return nil, &core.InvalidError{Field: "government_id.type", Message: "must be drivers_license, passport, state_id, military_id or ssn"}
	}
	if utf8.RuneCountInString(g.Last4) != 4 {
		return nil, &core.InvalidError{Field: "government_id.last4", Message: "must be 4 characters"}
	}
	state, err := o.Text("government_id.", "state", g.Type == "drivers_license" || g.Type == "state_id")
	if err != nil {
		return nil, err
	}
	if state != "" {
		if !stateCode(state) {
			return nil, &core.InvalidError{Field: "government_id.state", Message: "must be a two-letter state code"}
		}
		g.State = &state
	}
	return g, nil
}

func optionalText(f core.Fields, name string, required bool) (*string, error) {
	s, err := f.Text("", name, required)
	if err != nil || s == "" {
		return nil, err
	}
	return &s, nil
}

func stateCode(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}

func postalCode(s string) bool {
	if len(s) != 5 && len(s) != 10 {
		return false
	}
	for i := range len(s) {
		if i == 5 {
			if s[i] != '-' {
				return false
			}
		} else if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func idBody(id string) []byte {
	b := append(make([]byte, 0, len(id)+9), `{"id":"`...)
	return append(append(b, id...), `"}`...)
}

func (v *vendor) createUser(r *core.Request, p *parsed) core.Answer {
	in, _ := p.in.(userInput)
	if _, early := p.in.(deprecatedHeader); early || in.deprecated {
		v.s.Count(counterDeprecated, 1)
	}
	var old *user
	if in.user != nil && in.user.Tag != nil {
		old = v.userByTag[*in.user.Tag]
	} else if v.dedupeBody {
		old = v.userByBody[p.sum]
	}
	if old != nil {
		if old.sum != p.sum {
			v.s.Count(counterMismatch, 1)
		}
		return core.Answer{Status: http.StatusOK, Body: idBody(old.ID), Effect: core.Replayed, Object: old.ID}
	}
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	u := in.user
	u.ID = v.newID("user_")
	u.Status = "created"
	u.PaymentCredentials = []credential{}
	u.Limits = userLimits{AmountMax, "USD"}
	u.ms, u.CreatedAt = v.stamp(r.Now)
	u.sum, u.byBody = p.sum, u.Tag == nil && v.dedupeBody
	v.addUser(u)
	return core.Answer{Status: http.StatusOK, Body: idBody(u.ID), Effect: core.Applied, Object: u.ID, Rows: []core.Row{u.row()}}
}

// addCredential stores a card with a user (sandbox decision: an approved token payment stores its card).
func (v *vendor) addCredential(u *user, now time.Time, last4 string) {
	for _, c := range u.PaymentCredentials {
		if c.CardLast4 == last4 {
			return
		}
	}
	c := credential{ID: v.newID("cred_"), CreatedAt: now.UTC().Format(timeLayout), CardLast4: last4, Authenticated: true, Type: "card_only_debit"}
	u.PaymentCredentials = append(u.PaymentCredentials, c)
	v.credentials[c.ID] = credentialOwner{u, last4}
}
