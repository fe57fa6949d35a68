package daemon

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkeeper/etcdkeeper/cluster"
	"github.com/etcdkeeper/etcdkeeper/config"
	"github.com/etcdkeeper/etcdkeeper/report"
	"github.com/etcdkeeper/etcdkeeper/splitter"
)

// Host is what a part finds when it is made: once in the life of the daemon. Parts register their metrics, handlers and
// status here, and keep what outlives a reload.
type Host struct {
	Registry prometheus.Registerer
	Log      *slog.Logger
	Version  string
	Watch    *Watch // the latest view of the cluster, its size series and the forecast

	Kubeconfig, Context string // how the API server is reached, where a part speaks to it

	// census is set before the parts that come after it in parts are made.
	census *censusPart

	pages    []page
	status   []statusPart
	sections []func() []report.Section
}

// Env is what the tasks of a part are made from: at the start and again at each reload.
type Env struct {
	Config  config.Config
	Cluster *cluster.Client // open until the last run of these tasks has ended

	presence *presence
}

// part is a capability in the daemon. New parts are listed in parts.
type part struct {
	name string
	// setUp is called once and returns the function that makes the tasks under a configuration. That one connects to
	// nothing; its error refuses the configuration.
	setUp func(h *Host) (tasks func(e Env) ([]Task, error), err error)
}

// parts are the capabilities in the daemon, one line each.
var parts = []part{
	{"watch", setUpWatch},
	{"announce", setUpAnnounce},
	{cluster.TaskDefrag, setUpDefrag},
	{cluster.TaskCensus, setUpCensus},
	{"split", splitObserving(splitter.DefaultObserve)},
	{"clean", setUpClean},
	{"vpa", setUpVPA},
}

type page struct {
	path, title string
	handler     http.Handler
}

// Page serves a page under path and links it by its title from the status page. With an empty title it is served
// without a link: an API.
func (h *Host) Page(path, title string, handler http.Handler) {
	if !strings.HasPrefix(path, "/") || slices.Contains([]string{"/", "/metrics", "/api/status"}, path) {
		panic(fmt.Sprintf("page %q: the path is the daemon's own", path))
	}
	h.pages = append(h.pages, page{path, title, handler})
}

// Section adds sections to the status page. read is called at each request, as that of Status is.
func (h *Host) Section(read func() []report.Section) { h.sections = append(h.sections, read) }

type statusPart struct {
	name string
	read func() any
}

// Status adds a field to /api/status. read is called at each request, by several goroutines at once; it must not wait
// for the cluster.
func (h *Host) Status(name string, read func() any) {
	h.status = append(h.status, statusPart{name, read})
}
