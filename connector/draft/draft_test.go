package draft

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

func known(t testing.TB) map[string][]string {
	t.Helper()
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, entity := range set.Entities() {
		for _, f := range set.Reader(entity).Type.Fields {
			out[entity] = append(out[entity], f.Name)
		}
	}
	return out
}

// loads compiles a draft in the environment that it has.
func loads(t testing.TB, text []byte) {
	t.Helper()
	p, err := profile.Parse("draft.yaml", text)
	if err != nil {
		t.Fatalf("the draft does not load: %v\n%s", err, text)
	}
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	env := "sandbox"
	if !strings.Contains(string(text), "\n  sandbox: ") {
		env = "production"
	}
	if _, err := p.Compile(profile.Options{Connector: "c", Environment: env, Schemas: set, Secrets: []string{"api_key", "client_id", "client_secret"}}); err != nil {
		t.Fatalf("the draft does not compile: %v\n%s", err, text)
	}
}

// What documents say is in their drafts, and the drafts load.
func TestDrafts(t *testing.T) {
	for file, want := range map[string][]string{
		"acme.yaml": { // OpenAPI 3.0
			"profile: acme_billing\n", "  sandbox: {base_url: \"https://sandbox.acme.example/v1\"}", "  production: {base_url: \"https://api.acme.example/v1\"}",
			"auth: {kind: bearer, secret: api_key}", "  create_account:\n    method: POST\n    path: /accounts\n    class: key", "key: {in: header, name: Idempotency-Key}",
			"email: {type: string, required: true, max: 200}", "kind: {type: string, enum: [person, company]}", "      address:\n        type: object\n        fields:\n          city: {type: string}",
			"answer: {id: string}", "path: \"/accounts/{account_id}\"", "class: overwrite # CHECK", "class: none # CHECK", "encoding: form",
			"- {status: 401, verdict: halt, reason: status_401} # the key is wrong", "- {status: 422, verdict: reject, reason: status_422}",
			"#       email: event.email", "#       name: event.legal_name", "#       amount: event.total_minor", "#     params: {account_id: ids.customer_id}", "deprecated",
		},
		"modern.json": { // OpenAPI 3.1
			"auth: # the first counts", "- {kind: header, header: X-Api-Key, secret: api_key}", "- {kind: oauth2, token_url: /oauth/token,",
			"nickname: {type: string}", "#       currency: event.currency", "base_url: \"https://eu.modern.example\"",
		},
		"awkward.yaml": { // names that collide, schemas that hold themselves, paths and fields that a profile does not take
			"path: \"/orgs/{org_id}/accounts/{org_id_2}\"", "#     params: {org_id: ids.customer_id, org_id_2: ids.customer_id}",
			"parent: {type: object}", "odd: {type: object}", "second: {type: object}", "      email: {type: string}", "answer: {id: string}",
			"#     remember: {ids: {customer_id: body.id}}", "answer: {charge_id: string}", "#     remember: {ids: {invoice_id: body.charge_id}}",
			"# CHECK: the body has no field that can be declared", "# CHECK: POST /a path with blanks is left out",
		},
	} {
		doc, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		text, err := Draft(doc, Options{Source: file, Known: known(t)})
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		loads(t, text)
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("the draft of %s lacks %q:\n%s", file, w, text)
			}
		}
		for route := range strings.SplitSeq(string(text), "\n    entity: ") {
			if n := strings.Count(route, "    # steps:\n"); n > 1 {
				t.Errorf("the draft of %s suggests the key steps %d times in one route:\n%s", file, n, route)
			}
		}
	}
}

// Only what was asked for, under the name that was given.
func TestDraftOfSomeOperations(t *testing.T) {
	doc, err := os.ReadFile("testdata/acme.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := Draft(doc, Options{Name: "mine", Operations: []string{"createAccount", "DELETE /accounts/{accountId}"}, Known: known(t)})
	if err != nil {
		t.Fatal(err)
	}
	loads(t, text)
	if s := string(text); !strings.Contains(s, "profile: mine\n") || strings.Count(s, "    method: ") != 2 || !strings.Contains(s, "method: DELETE") {
		t.Errorf("the draft holds other operations than those two:\n%s", s)
	}
}

// manyFields is a document whose draft is larger than a profile may be.
func manyFields() string {
	var b strings.Builder
	b.WriteString("openapi: 3.0.0\ninfo: {title: x, version: \"1\"}\npaths:\n  /a:\n    post:\n      responses: {}\n      requestBody:\n" +
		"        content:\n          application/json:\n            schema:\n              type: object\n              properties:\n")
	for i := range profile.FileBytesMax / 60 {
		fmt.Fprintf(&b, "                f%060d: {type: string}\n", i)
	}
	return b.String()
}

func TestBadDocuments(t *testing.T) {
	for _, c := range []struct{ what, doc, says string }{
		{"no YAML", "openapi: 3.0.0\ninfo: {title: x\npaths: [", "[3:1]"},
		{"no OpenAPI", "hello: world\n", "openapi: 3.x"},
		{"Swagger", "swagger: \"2.0\"\n", "convert it"},
		{"nothing in it", "openapi: 3.0.0\ninfo: {title: x, version: \"1\"}\npaths: {}\n", "no operation"},
		{"a reference elsewhere", "openapi: 3.0.0\ninfo: {title: x, version: \"1\"}\npaths:\n  /a:\n    post:\n      requestBody: {$ref: \"https://evil.example/x.yaml\"}\n      responses: {}\n", "external"},
		{"a reference to nothing", "openapi: 3.0.0\ninfo: {title: x, version: \"1\"}\npaths:\n  /a:\n    post:\n      requestBody: {$ref: \"#/components/requestBodies/none\"}\n      responses: {}\n", "none"},
		{"no path that can be written", "openapi: 3.0.0\ninfo: {title: x, version: \"1\"}\npaths: {/a b: {get: {responses: {}}}}\n", "path cannot be written"},
		{"a draft that is too large", manyFields(), "--operation"},
		{"too large", "#" + strings.Repeat("x", BytesMax), "more than"},
	} {
		text, err := Draft([]byte(c.doc), Options{})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error with %q; draft %q", c.what, err, c.says, text)
		}
		if _, syntax := errors.AsType[*SyntaxError](err); syntax != (c.what == "no YAML") {
			t.Errorf("%s: a syntax error: %t", c.what, syntax)
		}
	}
}

// FuzzDraft: whatever the document, an error or a draft that loads.
func FuzzDraft(f *testing.F) {
	for _, file := range []string{"acme.yaml", "modern.json", "awkward.yaml"} {
		doc, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(doc))
	}
	fields := known(f)
	f.Fuzz(func(t *testing.T, doc string) {
		text, err := Draft([]byte(doc), Options{Source: doc, Known: fields})
		if err == nil {
			loads(t, text)
		} else if errors.Is(err, errUnsound) {
			t.Error(err)
		}
	})
}
