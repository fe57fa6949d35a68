package bulkclean

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkeeper/etcdkeeper/kube"
)

// Via is the way by which objects are deleted.
type Via string

// The two ways.
const (
	ViaAPI  Via = "apiserver"
	ViaEtcd Via = "etcd"
)

// API is what the executor needs of an API server; *kube.Client is one.
type API interface {
	Get(ctx context.Context, r kube.Resource, namespace, name, accept string) ([]byte, error)
	Delete(ctx context.Context, r kube.Resource, namespace, name string, pre kube.Preconditions) error
	ClusterUID(ctx context.Context) (string, error)
}

// answer is what one attempt to delete one object came to.
type answer int

const (
	removed answer = iota // it was there as planned, and is gone
	absent                // it is not there
	differs               // it is not as planned
	later                 // not done, or not known; the same attempt may succeed later
	denied                // nobody who asks like this will be let
	refused               // this one will not be deleted
)

// attempt is an answer with what goes with it.
type attempt struct {
	answer
	unsure     bool          // the deletion may have been carried out all the same
	overloaded bool          // with later: less load was asked for
	wait       time.Duration // with later: the wait that was asked for
	err        error
}

// target deletes one object that is as planned, and tries once.
type target interface {
	remove(ctx context.Context, k *Kind, o *Object) attempt
}

type apiTarget struct{ api API }

func (t apiTarget) remove(ctx context.Context, k *Kind, o *Object) attempt {
	err := t.api.Delete(ctx, k.Resource, o.Namespace, o.Name,
		kube.Preconditions{UID: o.UID, ResourceVersion: strconv.FormatInt(o.ModRevision, 10)})
	switch {
	case err == nil:
		return attempt{answer: removed}
	case kube.IsNotFound(err):
		return attempt{answer: absent}
	case kube.IsConflict(err):
		return attempt{answer: differs}
	case kube.IsDenied(err):
		return attempt{answer: denied, err: err}
	case kube.Overloaded(err):
		return attempt{answer: later, overloaded: true, wait: kube.RetryAfter(err), err: err}
	case kube.IsTransient(err):
		return attempt{answer: later, unsure: true, wait: kube.RetryAfter(err), err: err}
	}
	return attempt{answer: refused, err: err}
}

type etcdTarget struct{ etcd *Etcd }

func (t etcdTarget) remove(ctx context.Context, _ *Kind, o *Object) attempt {
	done, now, unsure, err := t.etcd.deleteAt(ctx, o.Key, o.ModRevision)
	switch {
	case err != nil && (errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrAuthFailed)):
		return attempt{answer: denied, err: err}
	case err != nil && errors.Is(err, rpctypes.ErrTooManyRequests):
		return attempt{answer: later, overloaded: true, err: err}
	case err != nil && lasting(err):
		return attempt{answer: refused, err: err}
	case err != nil:
		return attempt{answer: later, unsure: true, err: err}
	case done:
		return attempt{answer: removed}
	case now == nil:
		return attempt{answer: absent, unsure: unsure}
	}
	return attempt{answer: differs, unsure: unsure}
}

// lasting tells whether etcd refused the request itself.
func lasting(err error) bool {
	code := status.Code(err)
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		code = e.Code()
	}
	return code == codes.InvalidArgument || code == codes.OutOfRange || code == codes.Unimplemented
}

// source reads objects as they are now, in the order asked for, nil for one that is not there.
type source interface {
	read(ctx context.Context, k *Kind, objects []*Object) ([]*Item, error)
}

type etcdSource struct{ etcd *Etcd }

func (s etcdSource) read(ctx context.Context, _ *Kind, objects []*Object) ([]*Item, error) {
	keys := make([]string, len(objects))
	for i, o := range objects {
		keys[i] = o.Key
	}
	items := make([]*Item, 0, len(keys))
	for some := range slices.Chunk(keys, maxOps) {
		got, _, err := s.etcd.Get(ctx, some)
		if err != nil {
			return nil, err
		}
		items = append(items, got...)
	}
	return items, nil
}

// apiSource reads through the API server where etcd is out of reach: what it exports can be created again, and not put
// back byte by byte.
type apiSource struct {
	api     API
	workers int
}

func (s apiSource) read(ctx context.Context, k *Kind, objects []*Object) ([]*Item, error) {
	items := make([]*Item, len(objects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.workers)
	for i, o := range objects {
		g.Go(func() error {
			raw, err := readObject(ctx, s, k.Resource, o.Namespace, o.Name)
			if kube.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read %s %s/%s: %w", k.Name, o.Namespace, o.Name, err)
			}
			f, err := meta(raw)
			if err != nil {
				return fmt.Errorf("read %s %s/%s: %w", k.Name, o.Namespace, o.Name, err)
			}
			rev, err := revisionOf(f)
			if err != nil {
				return fmt.Errorf("read %s %s/%s: %w", k.Name, o.Namespace, o.Name, err)
			}
			items[i] = &Item{Key: o.Key, Value: raw, ModRevision: rev, FromAPI: true}
			return nil
		})
	}
	return items, g.Wait()
}

// Object makes an apiSource an ObjectReader.
func (s apiSource) Object(ctx context.Context, r kube.Resource, namespace, name string) ([]byte, error) {
	accept := kube.Protobuf
	if r.Custom {
		accept = kube.JSON
	}
	return s.api.Get(ctx, r, namespace, name, accept)
}
