package core

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
)

// Admin is the interface for tests and operators (design section 17). It has no authentication: keep it on loopback.
//
//	GET  /effects?since=SEQ&limit=N   JSON lines of Entry after SEQ, in order of application
//	GET  /objects?kind=KIND           JSON lines of Object
//	GET  /objects/ID                  one Object
//	GET  /faults                      array of FaultState
//	POST /faults                      a Fault; answers with the array
//	GET  /counters                    object of numbers
//	GET  /actions                     array of action names
//	POST /actions/NAME                a JSON object of arguments
//	POST /reset                       as new
//	GET  /healthz
func (s *Sandbox) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /effects", s.adminEffects)
	mux.HandleFunc("GET /objects", s.adminObjects)
	mux.HandleFunc("GET /objects/{id...}", func(w http.ResponseWriter, r *http.Request) {
		o, ok := s.Object(r.PathValue("id"))
		if !ok {
			adminError(w, http.StatusNotFound, errors.New("no object has this id"))
			return
		}
		adminJSON(w, http.StatusOK, o)
	})
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { adminJSON(w, http.StatusOK, s.FaultStates()) })
	mux.HandleFunc("POST /faults", s.adminFault)
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) { adminJSON(w, http.StatusOK, s.Counters()) })
	mux.HandleFunc("GET /actions", func(w http.ResponseWriter, _ *http.Request) { adminJSON(w, http.StatusOK, s.vendor.Actions()) })
	mux.HandleFunc("POST /actions/{name}", s.adminAction)
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Reset(); err != nil {
			adminError(w, http.StatusInternalServerError, err)
			return
		}
		adminJSON(w, http.StatusOK, struct{}{})
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Healthy(); err != nil {
			adminError(w, http.StatusInternalServerError, err)
			return
		}
		adminJSON(w, http.StatusOK, map[string]string{"status": "ok", "vendor": s.name})
	})
	return mux
}

func adminJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that is gone is not the sandbox's problem
}

func adminError(w http.ResponseWriter, status int, err error) {
	adminJSON(w, status, map[string]string{"error": err.Error()})
}

func queryInt(r *http.Request, name string, def int64) (int64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, errors.New(name + " must be a whole number of 0 or more")
	}
	return n, nil
}

func (s *Sandbox) adminEffects(w http.ResponseWriter, r *http.Request) {
	since, err := queryInt(r, "since", 0)
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	left, err := queryInt(r, "limit", 1<<62)
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	s.mu.Lock()
	s.vendor.Tick(s.now())
	log := s.effects // a reset meanwhile replaces it
	end := log.last()
	s.mu.Unlock()
	var buf []byte
	started := false
	for left > 0 && since < end {
		s.mu.Lock()
		es, seq, err := log.since(since, int(min(left, chunkEntries, end-since)))
		s.mu.Unlock()
		if err != nil {
			if !started {
				adminError(w, http.StatusGone, err)
				return
			}
			panic(http.ErrAbortHandler) // entries were dropped under the reader: no silent gap
		}
		if !started {
			w.Header().Set("Content-Type", "application/x-ndjson")
			started = true
		}
		buf = buf[:0]
		for i := range es {
			buf = append(appendEntry(buf, s.name, &es[i], seq+int64(i)), '\n')
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
		extendWrite(w)
		since += int64(len(es))
		left -= int64(len(es))
	}
	if !started {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
	}
}

func (s *Sandbox) adminObjects(w http.ResponseWriter, r *http.Request) {
	kind := r.URL.Query().Get("kind")
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for position := 0; position >= 0; {
		var page []Object
		s.mu.Lock()
		if position == 0 {
			s.vendor.Tick(s.now())
		}
		page, position = s.vendor.Objects(kind, position, 1000)
		s.mu.Unlock()
		for _, o := range page {
			if enc.Encode(o) != nil {
				return
			}
		}
		extendWrite(w)
	}
}

// adminBody reads a JSON object, {} if there is no body.
func adminBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, BodyBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(b) > BodyBytesMax {
		return nil, errors.New("the body is larger than " + strconv.Itoa(BodyBytesMax) + " bytes")
	}
	if len(b) == 0 {
		b = []byte("{}")
	}
	return b, nil
}

func (s *Sandbox) adminFault(w http.ResponseWriter, r *http.Request) {
	b, err := adminBody(r)
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	f, err := ReadFault(b, s.vendor.Operations())
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	if err := s.faults.set(f, s.now()); err != nil {
		adminError(w, http.StatusConflict, err)
		return
	}
	adminJSON(w, http.StatusOK, s.FaultStates())
}

func (s *Sandbox) adminAction(w http.ResponseWriter, r *http.Request) {
	b, err := adminBody(r)
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	args, err := ParseFields(b)
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	v, err := s.Act(r.PathValue("name"), args)
	if err != nil {
		adminError(w, http.StatusBadRequest, err)
		return
	}
	adminJSON(w, http.StatusOK, v)
}
