package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/weirsync/weir/connector/kafka/bare"
	"github.com/weirsync/weir/connector/kafka/embedded"
)

// Broker is the part that is the embedded broker.
func Broker(ctx context.Context, in io.Reader, out io.Writer) error {
	b, err := embedded.Start(ctx, embedded.Options{})
	if err != nil {
		return err
	}
	defer b.Close()
	return serve(ctx, in, out, answer{Addr: b.Addr()}, nil)
}

// BareOptions are those of the bare loop.
type BareOptions struct {
	Brokers  []string
	Topic    string
	Group    string
	URL      string
	InFlight int
}

// Bare is the part that is the floor: each record's bytes are one POST, with net/http as it comes but for the idle
// connections, of which it keeps as many as it uses.
func Bare(ctx context.Context, in io.Reader, out io.Writer, o BareOptions) error {
	return Under(ctx, in, out, func(ctx context.Context) error {
		client := &http.Client{Transport: &http.Transport{MaxIdleConns: o.InFlight, MaxIdleConnsPerHost: o.InFlight}}
		defer client.CloseIdleConnections()
		work := make(chan []byte)
		errs := make(chan error, 1)
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var workers sync.WaitGroup
		for range o.InFlight {
			workers.Go(func() {
				for v := range work {
					if err := post(ctx, client, o.URL+barePath, v); err != nil && ctx.Err() == nil {
						select {
						case errs <- err:
						default:
						}
						stop()
					}
				}
			})
		}
		err := bare.Consume(ctx, o.Brokers, o.Group, o.Topic, func(v []byte) {
			select {
			case work <- v:
			case <-ctx.Done():
			}
		})
		close(work)
		workers.Wait()
		select {
		case e := <-errs:
			err = errors.Join(err, e)
		default:
		}
		return err
	})
}

func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the vendor answers %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
