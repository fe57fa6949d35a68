package embedded

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// RunMember is the child's side: it reads its spec from in, serves, writes one line to out once it does, and ends when
// in ends or ctx does. On the way out it removes its own files, and the cluster's where the parent did not.
func RunMember(ctx context.Context, in io.Reader, out io.Writer) error {
	r := bufio.NewReader(in)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("embedded etcd: a member is started by its parent only: read its spec from standard input: %w", err)
	}
	var s spec
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("embedded etcd: read the member's spec: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := make(chan bool, 1)
	go func() {
		word, _ := r.ReadString('\n') // ends with the parent
		told <- word == stopWord
		cancel()
	}()
	err = serve(ctx, s, out)
	parentLives := true // a member that failed or was signalled alone leaves the others their files
	select {
	case parentLives = <-told:
	default:
	}
	return errors.Join(err, removeFiles(s, parentLives))
}

// stopWord is what a parent says before it closes the pipe. A pipe that ends without it means that the parent is gone.
const stopWord = "stop\n"

func serve(ctx context.Context, s spec, out io.Writer) error {
	cfg, err := s.config()
	if err != nil {
		return err
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("embedded etcd: start %s: %w", s.Name, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		if _, err := fmt.Fprintln(out, "serving"); err != nil {
			return errors.Join(fmt.Errorf("embedded etcd: tell the parent: %w", err), closeWithin(e, closeTimeout))
		}
	case <-ctx.Done():
		return closeWithin(e, closeTimeout)
	case err := <-e.Err():
		return errors.Join(fmt.Errorf("embedded etcd: %s: %w", s.Name, err), closeWithin(e, closeTimeout))
	}
	select {
	case <-ctx.Done():
		return closeWithin(e, closeTimeout)
	case err := <-e.Err():
		return errors.Join(fmt.Errorf("embedded etcd: %s: %w", s.Name, err), closeWithin(e, closeTimeout))
	case <-e.Server.StopNotify():
		return errors.Join(fmt.Errorf("embedded etcd: %s stopped by itself", s.Name), closeWithin(e, closeTimeout))
	}
}

// closeTimeout bounds how long closing may take: etcd waits up to seven seconds for requests in flight, which nobody
// here waits for.
const closeTimeout = 3 * time.Second

// closeWithin closes the server but does not wait for it for ever: a member that waits for a quorum which is gone has
// nothing to save.
func closeWithin(e *embed.Etcd, d time.Duration) error {
	closed := make(chan struct{})
	go func() {
		// All members end at once: there is nobody to hand leadership to.
		e.Server.HardStop()
		e.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(d):
	}
	return nil
}

func (s spec) config() (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = s.Name, s.Dir
	for _, set := range []struct {
		to   *[]url.URL
		text string
	}{
		{&cfg.ListenClientUrls, s.ClientURL}, {&cfg.AdvertiseClientUrls, s.ClientURL},
		{&cfg.ListenPeerUrls, s.PeerURL}, {&cfg.AdvertisePeerUrls, s.PeerURL},
	} {
		u, err := url.Parse(set.text)
		if err != nil {
			return nil, fmt.Errorf("embedded etcd: %s: %w", s.Name, err)
		}
		*set.to = []url.URL{*u}
	}
	cfg.InitialCluster, cfg.InitialClusterToken = s.InitialCluster, s.Token
	cfg.SocketOpts = transport.SocketOpts{ReusePort: true} // the parent keeps the ports bound
	cfg.UnsafeNoFsync = !s.Fsync
	cfg.QuotaBackendBytes = s.QuotaBytes
	cfg.StrictReconfigCheck = true
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded etcd: make the data directory: %w", err)
	}
	cfg.LogLevel = "warn"
	cfg.LogOutputs = []string{filepath.Join(s.Dir, "etcd.log")}
	return cfg, nil
}

// removeFiles removes the member's own files. Where the parent is gone, it also removes what the parent left, and the
// last member the cluster's directory.
func removeFiles(s spec, parentLives bool) error {
	if err := os.RemoveAll(s.Dir); err != nil {
		return fmt.Errorf("embedded etcd: remove the files of %s: %w", s.Name, err)
	}
	if parentLives {
		return nil
	}
	entries, err := os.ReadDir(s.Shared)
	if err != nil {
		return nil //nolint:nilerr // another member was faster
	}
	for _, e := range entries {
		if !slices.Contains(s.Names, e.Name()) {
			_ = os.RemoveAll(filepath.Join(s.Shared, e.Name())) // the other members try too
		}
	}
	_ = os.Remove(s.Shared) // fails for all but the last
	return nil
}
