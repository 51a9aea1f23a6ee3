package schema

import (
	"testing"

	"github.com/linkedin/goavro/v2"
)

// What decoding costs beyond goavro: the projection, and the rules. Inputs are the sample events, 25 fields or so.
func BenchmarkDecode(b *testing.B) {
	s := embedded(b)
	for _, entity := range []string{"customer", "invoice"} {
		value := encoded(b, s, entity, sample(entity))
		key, err := s.KeyOf(entity, sample(entity))
		if err != nil {
			b.Fatal(err)
		}
		r := record(entity, key, value)
		report := func(b *testing.B) {
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		}
		b.Run(entity+"/goavro", func(b *testing.B) { // with the schema as it is: logical types and all
			codec, err := goavro.NewCodec(s.Reader(entity).Text)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := codec.NativeFromBinary(value[5:]); err != nil {
					b.Fatal(err)
				}
			}
			report(b)
		})
		b.Run(entity+"/sound", func(b *testing.B) { // the walk before goavro
			b.ReportAllocs()
			for b.Loop() {
				if f := sound(s.Reader(entity).Type, value[5:], 1<<16); f != nil {
					b.Fatal(f)
				}
			}
			report(b)
		})
		for _, c := range []struct {
			name string
			d    *AvroDecoder
		}{{"projected", NewDecoder(s, nil, DecoderOptions{})}, {"rules", embeddedDecoder(b, DecoderOptions{})}} {
			b.Run(entity+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.d.Decode(b.Context(), r); err != nil {
						b.Fatal(err)
					}
				}
				report(b)
			})
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	s := embedded(b)
	fields := invoiceFields()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Encode("invoice", fields); err != nil {
			b.Fatal(err)
		}
	}
}
