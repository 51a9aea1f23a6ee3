package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Timeouts of the listeners. A held or slowed answer gets its write time anew when it is released.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 60 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 2 * time.Minute
)

// A Listener is what `weir sandbox` prints as one JSON line (design section 17).
type Listener struct {
	Vendor   string `json:"vendor"`
	URL      string `json:"url"`
	AdminURL string `json:"admin_url"`
	// LimitScale is printed when limits are scaled.
	LimitScale float64 `json:"limit_scale,omitempty"`
}

// Start listens on addr and adminAddr ("" = 127.0.0.1:0) and serves until ctx ends or Close is called. It may be
// called several times for several listeners.
func (s *Sandbox) Start(ctx context.Context, addr, adminAddr string) (Listener, error) {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	select {
	case <-s.closing:
		return Listener{}, errors.New("start sandbox " + s.name + ": it is closed")
	default:
	}
	api, err := s.listen(ctx, addr)
	if err != nil {
		return Listener{}, err
	}
	admin, err := s.listen(ctx, adminAddr)
	if err != nil {
		return Listener{}, errors.Join(err, api.Close())
	}
	s.serveOn(api, s.Handler())
	s.serveOn(admin, s.Admin())
	s.wg.Go(func() {
		select {
		case <-ctx.Done():
			s.stop()
		case <-s.closing:
		}
	})
	l := Listener{Vendor: s.name, URL: "http://" + api.Addr().String(), AdminURL: "http://" + admin.Addr().String()}
	if s.opts.LimitScale != 0 && s.opts.LimitScale != 1 {
		l.LimitScale = s.opts.LimitScale
	}
	return l, nil
}

func (s *Sandbox) listen(ctx context.Context, addr string) (net.Listener, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen for sandbox %s: address %q is not HOST:PORT: %w", s.name, addr, err)
	}
	if !s.opts.AllowRemote {
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("listen for sandbox %s on %s: not a loopback address, and its admin interface has no authentication; use 127.0.0.1, or allow remote clients on purpose", s.name, addr)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for sandbox %s: %w", s.name, err)
	}
	return l, nil
}

func (s *Sandbox) serveOn(l net.Listener, h http.Handler) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10, Protocols: &protocols,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, srv)
	s.wg.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("a listener of the sandbox ended", "vendor", s.name, "error", err)
		}
	})
}

// stop closes listeners and connections and releases what is held; it waits for nothing.
func (s *Sandbox) stop() {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.lifecycle.Lock()
		defer s.lifecycle.Unlock()
		for _, srv := range s.servers {
			s.closeErr = errors.Join(s.closeErr, srv.Close())
		}
	})
}

// Close ends the sandbox: listeners, connections, held requests, webhooks, files. It returns when its own goroutines
// have ended. Requests through Handler after Close are not answered reliably.
func (s *Sandbox) Close() error {
	s.stop()
	s.wg.Wait()
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.closeFilesOnce.Do(func() { s.closeErr = errors.Join(s.closeErr, s.closeFiles()) })
	return s.closeErr
}
