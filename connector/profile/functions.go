package profile

import (
	"net/mail"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// library is what a mapping may call beside standard CEL: texts, names of people, dates, countries and
// currencies. There is no clock and no randomness in it, so that a request can be rebuilt (design section 6).
// The version of CEL's own string library is pinned: a newer one must not change a mapping.
func library() []cel.EnvOption {
	text := func(name string, f func(string) string) cel.EnvOption {
		return cel.Function(name, cel.Overload(name+"_text", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(f(string(v.(types.String)))) })))
	}
	test := func(name string, f func(string) bool) cel.EnvOption {
		return cel.Function(name, cel.Overload(name+"_text", []*cel.Type{cel.StringType}, cel.BoolType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.Bool(f(string(v.(types.String)))) })))
	}
	moment := func(name string, f func(time.Time) string) cel.EnvOption {
		return cel.Function(name, cel.Overload(name+"_timestamp", []*cel.Type{cel.TimestampType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(f(v.(types.Timestamp).Time)) })))
	}
	return []cel.EnvOption{
		ext.Strings(ext.StringsVersion(3)),
		text("lower", strings.ToLower),
		text("upper", strings.ToUpper),
		text("trim", strings.TrimSpace),
		text("first_name", firstName),
		text("last_name", lastName),
		text("us_state", usState),
		test("is_email", isEmail),
		test("is_country", isCountry),
		test("is_currency", isCurrency),
		moment("date", func(t time.Time) string { return t.UTC().Format(time.DateOnly) }),
		moment("iso", isoTime),
		cel.Function("unix", cel.Overload("unix_timestamp", []*cel.Type{cel.TimestampType}, cel.IntType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.Int(v.(types.Timestamp).Unix()) }))),
	}
}

// functionNames is for hints.
var functionNames = []string{"lower", "upper", "trim", "first_name", "last_name", "us_state", "is_email",
	"is_country", "is_currency", "date", "iso", "unix", "has", "size", "string", "int", "matches", "startsWith", "endsWith", "contains"}

// isoTime is RFC 3339 in UTC with milliseconds, finer only where the value is (vendor sheet pushcash, section 3).
func isoTime(t time.Time) string {
	t = t.UTC()
	if t.Nanosecond()%int(time.Millisecond) == 0 {
		return t.Format("2006-01-02T15:04:05.000Z")
	}
	return t.Format(time.RFC3339Nano)
}

// lastName is the last word of a name, firstName all before it (vendor sheet pushcash, section 15).
func lastName(s string) string {
	w := strings.Fields(s)
	if len(w) == 0 {
		return ""
	}
	return w[len(w)-1]
}

func firstName(s string) string {
	w := strings.Fields(s)
	if len(w) < 2 {
		return ""
	}
	return strings.Join(w[:len(w)-1], " ")
}

func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Name == "" && a.Address == s && strings.Contains(s[strings.LastIndexByte(s, '@')+1:], ".")
}

func isCountry(s string) bool  { return countries[s] }
func isCurrency(s string) bool { return currencies[s] }

// usState is the two-letter code of a US state or territory, given as its code, as ISO 3166-2 (US-CA) or by its
// English name; "" for anything else.
func usState(s string) string {
	s = strings.TrimSpace(s)
	u := strings.ToUpper(s)
	u = strings.TrimPrefix(u, "US-")
	if len(u) == 2 {
		if _, ok := stateNames[u]; ok {
			return u
		}
		return ""
	}
	return stateCodes[strings.ToLower(s)]
}

func wordSet(s string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}

// countries are the officially assigned codes of ISO 3166-1 alpha-2.
var countries = wordSet(`AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
	BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ
	FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT
	JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP
	MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE
	RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV
	TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW`)

// currencies are the codes of ISO 4217 that are money in circulation.
var currencies = wordSet(`AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD
	CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD
	HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL
	MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD
	RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
	UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG`)

// stateNames are the USPS codes of states, the district and the territories.
var stateNames = map[string]string{
	"AL": "alabama", "AK": "alaska", "AZ": "arizona", "AR": "arkansas", "CA": "california", "CO": "colorado",
	"CT": "connecticut", "DE": "delaware", "DC": "district of columbia", "FL": "florida", "GA": "georgia", "HI": "hawaii",
	"ID": "idaho", "IL": "illinois", "IN": "indiana", "IA": "iowa", "KS": "kansas", "KY": "kentucky", "LA": "louisiana",
	"ME": "maine", "MD": "maryland", "MA": "massachusetts", "MI": "michigan", "MN": "minnesota", "MS": "mississippi",
	"MO": "missouri", "MT": "montana", "NE": "nebraska", "NV": "nevada", "NH": "new hampshire", "NJ": "new jersey",
	"NM": "new mexico", "NY": "new york", "NC": "north carolina", "ND": "north dakota", "OH": "ohio", "OK": "oklahoma",
	"OR": "oregon", "PA": "pennsylvania", "RI": "rhode island", "SC": "south carolina", "SD": "south dakota",
	"TN": "tennessee", "TX": "texas", "UT": "utah", "VT": "vermont", "VA": "virginia", "WA": "washington",
	"WV": "west virginia", "WI": "wisconsin", "WY": "wyoming", "PR": "puerto rico", "GU": "guam",
	"VI": "u.s. virgin islands", "AS": "american samoa", "MP": "northern mariana islands",
}

var stateCodes = func() map[string]string {
	m := make(map[string]string, len(stateNames))
	for code, name := range stateNames {
		m[name] = code
	}
	return m
}()
