package daemon

import (
	"context"
	"sync/atomic"
	"time"

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

// watchdog gives systemd the sign of life that WatchdogSec= asks for, twice in its time, until ctx ends. The state of
// the tasks is looked at each time: a daemon that is locked up gives none. It says nothing of etcd.
func (d *Daemon) watchdog(ctx context.Context) {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return
	}
	ticker := time.NewTicker(every / 2)
	defer ticker.Stop()
	for {
		d.log.Debug("sign of life for systemd", "running", d.runningTasks())
		d.notify(systemd.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
