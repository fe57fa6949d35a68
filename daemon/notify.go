package daemon

import (
	"sync/atomic"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// readiness is what /readyz says: the process serves and its tasks are scheduled. It says nothing of etcd, since the
// readiness of a sidecar is that of its pod.
type readiness struct{ ok atomic.Bool }

func (r *readiness) set(ok bool) { r.ok.Store(ok) }

// notify tells systemd, where it started this process and asked to be told.
func (d *Daemon) notify(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Debug("tell systemd", "state", state, "err", err)
	}
}

// notifyReloading tells systemd's Type=notify-reload that, and when, a reload began.
func (d *Daemon) notifyReloading() {
	d.notify(systemd.SdNotifyReloading + "\n" + systemd.SdNotifyMonotonicUsec())
}
