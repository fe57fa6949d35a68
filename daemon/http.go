package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/etcdkeeper/etcdkeeper/config"
)

// Bounds of a request, so that a slow client holds nothing for ever. Profiles of 30 s fit.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = 90 * time.Second
	idleTimeout  = 2 * time.Minute
	closeTimeout = 3 * time.Second
)

// server is one listener and what it serves.
type server struct {
	address   string
	listener  net.Listener
	http      *http.Server
	webConfig string // exporter-toolkit's file; "" for plain HTTP
}

// listen opens the ports, all or none.
func (d *Daemon) listen(c config.Listen) ([]*server, error) {
	var servers []*server
	var errs []error
	open := func(key, address, webConfig string, h http.Handler) {
		if address == "" {
			return
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			errs = append(errs, listenError(key, address, err))
			return
		}
		servers = append(servers, &server{address: l.Addr().String(), listener: l, webConfig: webConfig, http: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: readTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
		}})
	}
	open("listen.address", c.Address, c.WebConfigFile, d.handler(c))
	open("listen.probeAddress", c.ProbeAddress, "", d.probeHandler())
	if err := errors.Join(errs...); err != nil {
		for _, s := range servers {
			err = errors.Join(err, s.listener.Close())
		}
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addrs = nil
	for _, s := range servers {
		d.addrs = append(d.addrs, s.listener.Addr())
	}
	return servers, nil
}

// Addresses are those that are served, in the order listen.address, listen.probeAddress.
func (d *Daemon) Addresses() []net.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.addrs
}

// listenError says what to do about a port that cannot be had.
func listenError(key, address string, err error) error {
	_, port, _ := net.SplitHostPort(address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s (%s): another process holds the port: `ss -ltnp 'sport = :%s'` shows which; stop it, or choose another address: %w", address, key, port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s (%s): this machine does not have the address: %w", address, key, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s (%s): ports below 1024 need a privilege; choose a higher one: %w", address, key, err)
	}
	return fmt.Errorf("listen on %s (%s): %w", address, key, err)
}

func (s *server) serve(log *slog.Logger) error {
	log.Debug("listening", "address", s.address, "webConfig", s.webConfig)
	if s.webConfig == "" {
		return s.http.Serve(s.listener)
	}
	return web.Serve(s.listener, s.http, &web.FlagConfig{WebConfigFile: &s.webConfig}, log)
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// checkWebConfig reads the web configuration file once, so that a bad one is refused at the start.
func checkWebConfig(path string) error {
	if err := web.Validate(path); err != nil {
		return fmt.Errorf("listen.webConfigFile: %s: %w", path, err)
	}
	return nil
}

// handler serves everything but the probes.
func (d *Daemon) handler(c config.Listen) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{
		ErrorHandling:     promhttp.ContinueOnError,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
		EnableOpenMetrics: true,
	}))
	mux.HandleFunc("GET /api/status", d.serveStatus)
	mux.HandleFunc("GET /{$}", d.servePage)
	for _, p := range d.host.pages {
		mux.Handle(p.path, p.handler)
	}
	if c.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return secure(mux)
}

// secure sets the headers that keep a browser from doing more with a page than showing it.
func secure(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Frame-Options", "DENY")
		h.ServeHTTP(w, r)
	})
}

// probeHandler serves the kubelet's probes: of this process only.
func (d *Daemon) probeHandler() http.Handler {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, code int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = fmt.Fprintln(w, text)
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !d.ready.ok.Load() {
			say(w, http.StatusServiceUnavailable, "not running: starting or stopping")
			return
		}
		say(w, http.StatusOK, "ok")
	})
	return mux
}
