package registry

import (
	"context"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/weirsync/weir/schema"
)

// Register registers an Avro text under a subject and answers its id, that of an earlier registration if there is one.
// It makes requests every time. The error is the environment's, or the registry refuses the text (status 409: it is
// not compatible with an earlier version).
func (c *Client) Register(ctx context.Context, subject schema.Subject, text string) (schema.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	id, err := c.sr.RegisterSchema(ctx, string(subject), sr.Schema{Schema: text, Type: sr.TypeAvro}, -1, -1)
	if err != nil {
		return 0, answer("an id for subject "+string(subject), err)
	}
	return schema.ID(id), nil
}
