package profile

import (
	"fmt"
	"net/http"
)

// Literal makes a request of an operation as a contract check writes it, with the operation's fixed headers and encoding
// and none of its mapping. body is JSON, nil for none; header wins over fixed headers and is not kept. A nil Operation is
// one that the profile does not have: JSON, and the sender's own timeout.
func (o *Operation) Literal(method, path string, header http.Header, body []byte) (*Request, error) {
	q := &Request{Operation: o, Method: method, Path: path, Header: http.Header{"Accept": {"application/json"}}, Body: body}
	if o != nil {
		for _, h := range o.headers {
			q.Header[h.name] = h.value
		}
		if o.decl.form && body != nil {
			form, err := formOf(body)
			if err != nil {
				return nil, fmt.Errorf("operation %s: %w", o.Name, err)
			}
			q.Body = form
		}
	}
	if body == nil {
		q.Header.Del("Content-Type")
	} else if q.Header.Get("Content-Type") == "" {
		q.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		q.Header[k] = v
	}
	return q, nil
}
