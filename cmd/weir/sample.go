package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/weirsync/weir/connector/sample"
)

// sampleFlags adds the flags of generated events.
func sampleFlags(fs *pflag.FlagSet, o *sample.Options) {
	fs.IntVar(&o.Events, "sample", 0, "publish N generated sample events instead of a file")
	fs.Uint64Var(&o.Seed, "seed", 1, "seed of --sample: the same seed gives the same events")
	fs.IntVar(&o.Customers, "customers", 0, "customers of --sample; 0: a tenth of the events")
	fs.Float64Var(&o.Zipf, "zipf", 0, "skew of --sample, above 1: some customers change much more often than others; 0: none")
	fs.Float64Var(&o.UpdateShare, "update-share", 0.6, "share of --sample that changes something that exists")
	fs.Float64Var(&o.DeleteShare, "delete-share", 0, "share of --sample that deletes something")
	fs.Float64Var(&o.OutOfOrderShare, "out-of-order-share", 0, "share of --sample's customers whose first invoice comes before them")
	fs.Float64Var(&o.BadShare, "bad-share", 0, "share of --sample that is valid, and that Push Cash refuses")
}

// A sampleReader gives generated events as JSON lines. Not safe for concurrent use.
type sampleReader struct {
	g   *sample.Generator
	buf []byte
}

// newSampleReader makes a reader; the options' errors name the flag.
func newSampleReader(o sample.Options) (io.Reader, error) {
	g, err := sample.New(o)
	if err != nil {
		return nil, err
	}
	return &sampleReader{g: g}, nil
}

// Read implements io.Reader.
func (r *sampleReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		it, ok := r.g.Next()
		if !ok {
			return 0, io.EOF
		}
		line := struct {
			Entity  string            `json:"entity"`
			Key     string            `json:"key"`
			Event   map[string]any    `json:"event"`
			Headers map[string]string `json:"headers,omitempty"`
		}{it.Entity, it.Key, it.Event, nil}
		for _, h := range it.Headers {
			if line.Headers == nil {
				line.Headers = map[string]string{}
			}
			line.Headers[h.Key] = h.Value
		}
		out, err := json.Marshal(line)
		if err != nil {
			return 0, fmt.Errorf("sample event: %w", err)
		}
		r.buf = append(out, '\n')
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}
