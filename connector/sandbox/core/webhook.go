package core

import (
	"bytes"
	"container/heap"
	"context"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// A Hook is one webhook to deliver.
type Hook struct {
	URL string
	// Build makes body and headers of one attempt: every retry is stamped and signed anew.
	Build func(now time.Time) (body []byte, header http.Header)
	// Retries are the waits before attempts 2, 3, ...
	Retries []time.Duration
	// After delays the first attempt.
	After time.Duration
}

const (
	hooksQueuedMax = 100_000
	hooksInFlight  = 8
	hookTimeout    = 10 * time.Second // vendor sheet pushcash, section 11 (sandbox decision)
)

// hooks delivers webhooks in the background, at least once, in the order of their due times.
type hooks struct {
	s      *Sandbox
	client *http.Client
	wake   chan struct{}

	mu    sync.Mutex
	queue hookHeap
	seq   int64
	count map[string]int64
}

type queuedHook struct {
	Hook
	due     time.Time
	seq     int64
	attempt int
}

func newHooks(s *Sandbox) *hooks {
	h := &hooks{s: s, wake: make(chan struct{}, 1), client: &http.Client{
		Timeout:       hookTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: hooksInFlight},
	}}
	h.zero()
	return h
}

func (h *hooks) zero() {
	h.count = map[string]int64{"queued": 0, "delivered": 0, "failed_attempts": 0, "dropped": 0}
}

func (h *hooks) add(k Hook) { h.put(queuedHook{Hook: k, due: time.Now().Add(k.After), attempt: 1}) }

func (h *hooks) put(q queuedHook) {
	h.mu.Lock()
	if len(h.queue) >= hooksQueuedMax {
		h.count["dropped"]++
		h.mu.Unlock()
		return
	}
	h.seq++
	q.seq = h.seq
	if q.attempt == 1 {
		h.count["queued"]++
	}
	heap.Push(&h.queue, q)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default: // a wake-up is waiting already
	}
}

func (h *hooks) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = nil
	h.zero()
}

func (h *hooks) counts() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.count)
}

// run owns the deliveries and returns when the sandbox closes and all of them have ended.
func (h *hooks) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		h.client.CloseIdleConnections()
	}()
	slots := make(chan struct{}, hooksInFlight) // one per delivery on the wire
	for {
		wait := time.Hour
		h.mu.Lock()
		var next *queuedHook
		if len(h.queue) > 0 {
			if wait = time.Until(h.queue[0].due); wait <= 0 {
				q := heap.Pop(&h.queue).(queuedHook)
				next = &q
			}
		}
		h.mu.Unlock()
		if next == nil {
			t := time.NewTimer(wait)
			select {
			case <-h.wake:
			case <-t.C:
			case <-h.s.closing:
				t.Stop()
				return
			}
			t.Stop()
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-h.s.closing:
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			h.deliver(ctx, *next)
		})
	}
}

func (h *hooks) deliver(ctx context.Context, q queuedHook) {
	ok := h.post(ctx, q)
	if ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	if ok {
		h.count["delivered"]++
	} else {
		h.count["failed_attempts"]++
		if q.attempt > len(q.Retries) {
			h.count["dropped"]++
		}
	}
	h.mu.Unlock()
	if !ok && q.attempt <= len(q.Retries) {
		q.due = time.Now().Add(q.Retries[q.attempt-1])
		q.attempt++
		h.put(q)
	}
}

func (h *hooks) post(ctx context.Context, q queuedHook) bool {
	body, header := q.Build(h.s.now())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.URL, bytes.NewReader(body))
	if err != nil {
		return false
	}
	req.Header = header
	resp, err := h.client.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be reused
	_ = resp.Body.Close()
	return resp.StatusCode/100 == 2
}

type hookHeap []queuedHook

func (h hookHeap) Len() int { return len(h) }
func (h hookHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].seq < h[j].seq
}
func (h hookHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *hookHeap) Push(x any)   { *h = append(*h, x.(queuedHook)) }
func (h *hookHeap) Pop() any {
	old := *h
	q := old[len(old)-1]
	old[len(old)-1] = queuedHook{}
	*h = old[:len(old)-1]
	return q
}
