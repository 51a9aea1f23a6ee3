package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
)

// An opsServer is the operators' listener (design section 12): metrics, health, status.
type opsServer struct {
	*app
	cfg      *config.Config
	token    func() config.Secret // the one in force, where it may change; nil: that of cfg
	store    checkpoint.Store
	admin    *kafka.Admin
	registry *prometheus.Registry
	log      *slog.Logger

	readyMu sync.Mutex
	readyAt time.Time
	ready   error

	watchMu sync.Mutex
	watches map[string]watched // by connector
}

// watched is what the listener asks a running connector.
type watched interface {
	Ready() error
	Status() connector.Status
}

// watch adds a connector that runs in this process.
func (o *opsServer) watch(name string, w watched) {
	o.watchMu.Lock()
	defer o.watchMu.Unlock()
	if o.watches == nil {
		o.watches = make(map[string]watched)
	}
	o.watches[name] = w
}

// running are the connectors that run in this process, by name.
func (o *opsServer) running() map[string]watched {
	o.watchMu.Lock()
	defer o.watchMu.Unlock()
	return maps.Clone(o.watches)
}

// Bounds of the listener. A scrape or a status answers within seconds; the rest is against slow clients.
const (
	opsHeaderTimeout = 5 * time.Second
	opsWriteTimeout  = 60 * time.Second
	opsIdleTimeout   = 2 * time.Minute
	opsDrain         = 5 * time.Second
	// readyFor is how long an answer of /readyz is kept: probes of several watchers cost one question.
	readyFor     = 2 * time.Second
	readyTimeout = 3 * time.Second
	// statusTimeout bounds a status: what store and Kafka do not say in that time is left out.
	statusTimeout = 5 * time.Second
)

// start listens; stop ends the listener and waits for it.
func (o *opsServer) start(ctx context.Context) (stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.cfg.Ops.Listen)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{
		Handler: o.handler(), ReadHeaderTimeout: opsHeaderTimeout, ReadTimeout: opsHeaderTimeout, WriteTimeout: opsWriteTimeout,
		IdleTimeout: opsIdleTimeout, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(o.log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); err != http.ErrServerClosed {
			o.log.Error("the ops listener ended", "error", err.Error())
		}
	}()
	o.log.Info("ops listener", "url", "http://"+l.Addr().String())
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opsDrain)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-done
	}, nil
}

func (o *opsServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := o.readiness(r.Context()); err != nil {
			writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		writeText(w, http.StatusOK, "ready\n")
	})
	mux.Handle("GET /metrics", o.guard(promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{Registry: o.registry})))
	mux.Handle("GET /api/v1/status", o.guard(http.HandlerFunc(o.status)))
	return mux
}

// status answers with what the connectors of this process say now, also while the store takes no reports.
func (o *opsServer) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	rep, err := o.statusFrom(ctx, o.cfg, o.store, o.admin, func(name string, reports []connectorStatus) []connectorStatus {
		if c := o.running()[name]; c != nil {
			return []connectorStatus{liveStatus(c.Status())}
		}
		return reports
	})
	if err != nil {
		o.log.Debug("status is not complete", "error", err.Error()) // what is missing has a log line of its own
	}
	w.Header().Set(storeHeader, o.store.ID())
	out, err := json.Marshal(rep)
	if err != nil {
		http.Error(w, "status cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(out, '\n')) // the client may be gone
}

// readiness asks store and Kafka, at most once in readyFor. A vendor's health is not ours.
func (o *opsServer) readiness(ctx context.Context) error {
	o.readyMu.Lock()
	defer o.readyMu.Unlock() // held over the questions on purpose: all who ask meanwhile share the answer
	if now := o.Now(); !o.readyAt.IsZero() && now.Sub(o.readyAt) < readyFor {
		return o.ready
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	o.ready = nil
	if _, err := o.store.Statuses(ctx); err != nil {
		o.ready = environment("store", err, "")
	} else if err := ping(ctx, o.admin); err != nil {
		o.ready = environment("kafka", err, "")
	}
	// A store that answers may still take no writes, and a client of its own may reach what the connector's does not.
	running := o.running()
	for _, name := range slices.Sorted(maps.Keys(running)) {
		if o.ready == nil {
			o.ready = running[name].Ready()
		}
	}
	o.readyAt = o.Now()
	return o.ready
}

// guard asks for the token, if there is one; comparing hashes takes the same time whatever is wrong. Without a
// token the listener is on loopback (config checks that), and a request must name it as such, so that a web page
// cannot reach it through a name that it has pointed at 127.0.0.1.
func (o *opsServer) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := o.cfg.Ops.Token
		if o.token != nil {
			token = o.token()
		}
		if token.IsZero() {
			if !loopbackHost(r.Host) {
				http.Error(w, "no token is configured: use a loopback address as host", http.StatusForbidden)
				return
			}
			h.ServeHTTP(w, r)
			return
		}
		want, err := token.Value()
		if err != nil {
			o.log.Error("the token of the ops listener cannot be read", "error", err.Error())
			http.Error(w, "token cannot be checked", http.StatusServiceUnavailable)
			return
		}
		got, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
		if subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="weir"`)
			http.Error(w, "a bearer token is needed", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func loopbackHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func writeText(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(s)) // the client may be gone
}
