package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
)

// formOf turns the canonical JSON body of a request into a form, in the same order: nested fields as a[b], items of
// lists as a[].
func formOf(body []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var out []byte
	var value func(name string) error
	value = func(name string) error {
		tok, err := d.Token()
		if err != nil {
			return err
		}
		switch tok := tok.(type) {
		case json.Delim:
			for d.More() {
				inner := name + "[]"
				if tok == '{' {
					key, err := d.Token()
					if err != nil {
						return err
					}
					if inner, _ = key.(string); name != "" {
						inner = name + "[" + inner + "]"
					}
				}
				if err := value(inner); err != nil {
					return err
				}
			}
			_, err := d.Token()
			return err
		case nil:
			return nil
		default:
			if len(out) > 0 {
				out = append(out, '&')
			}
			out = append(out, url.QueryEscape(name)...)
			out = append(out, '=')
			out = append(out, url.QueryEscape(fmt.Sprint(tok))...)
			return nil
		}
	}
	if err := value(""); err != nil {
		return nil, errors.New("the body has no form")
	}
	return out, nil
}
