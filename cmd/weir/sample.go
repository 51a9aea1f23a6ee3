package main

import (
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
	fs.Float64Var(&o.OlderShare, "older-share", 0.3, "share of --sample that is written in an older version of its schema")
	fs.Float64Var(&o.BadShare, "bad-share", 0, "share of --sample that is valid, and that Push Cash refuses")
}

// newSampleReader gives generated events as JSON lines. It is not safe for concurrent use.
func newSampleReader(o sample.Options) (io.Reader, error) {
	g, err := sample.New(o)
	if err != nil {
		return nil, err
	}
	return g.Reader(), nil
}
