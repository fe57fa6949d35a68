package keyspace

import (
	"context"
	"errors"
	"io"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// source asks a member for keys.
type source interface {
	// page fills b with the answer to one request.
	page(ctx context.Context, r *pb.RangeRequest, b *batch) error
	// stream hands over part after part: next gives the batch to fill, send takes it.
	stream(ctx context.Context, r *pb.RangeRequest, next func() (*batch, error), send func(*batch) error) error
}

// newSource decodes answers itself where it can reach the client's connection, and else takes what the client decoded.
func newSource(m Member) source {
	if c, ok := m.(interface{ ActiveConnection() *grpc.ClientConn }); ok && c.ActiveConnection() != nil {
		return wireSource{c.ActiveConnection()}
	}
	return clientSource{m}
}

// wireSource decodes answers in place. The client would allocate each key and value by itself, which is most of what a
// scan costs the reader, and all of the garbage.
type wireSource struct{ conn *grpc.ClientConn }

const (
	rangeMethod  = "/etcdserverpb.KV/Range"
	streamMethod = "/etcdserverpb.KV/RangeStream"
	// maxAnswer bounds what is received at once, unless one key alone is larger. Parts of a stream are aimed at 1.5 MiB
	// by the server, which cannot know that the next values will be a thousand times as large as those before: behind
	// thousands of leases it sends as many nodes at once. What is too large is refused by its announced length.
	maxAnswer = 8 << 20
)

// codec is gRPC's for requests, and decodes answers into batches.
type codec struct {
	encoding.CodecV2
	decode func(*batch, []byte) error
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*batch)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if n := data.Len(); cap(b.buf) < n {
		b.buf = make([]byte, n)
	} else {
		b.buf = b.buf[:n]
	}
	data.CopyTo(b.buf)
	return c.decode(b, b.buf)
}

var (
	pageCodec   = codec{encoding.GetCodecV2(proto.Name), (*batch).decode}
	streamCodec = codec{encoding.GetCodecV2(proto.Name), (*batch).decodeStream}
)

func (s wireSource) page(ctx context.Context, r *pb.RangeRequest, b *batch) error {
	limit := maxAnswer
	if r.Limit == 1 {
		limit = math.MaxInt32
	}
	return s.conn.Invoke(ctx, rangeMethod, r, b, grpc.ForceCodecV2(pageCodec), grpc.MaxCallRecvMsgSize(limit))
}

func (s wireSource) stream(ctx context.Context, r *pb.RangeRequest, next func() (*batch, error), send func(*batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, whatever the server still had to send
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, streamMethod, grpc.ForceCodecV2(streamCodec),
		grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(r); err != nil && !errors.Is(err, io.EOF) { // the reason for an EOF comes with RecvMsg
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		b, err := next()
		if err != nil {
			return err
		}
		switch err := stream.RecvMsg(b); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := send(b); err != nil {
			return err
		}
	}
}

// clientSource is for a Member that is no *clientv3.Client.
type clientSource struct{ member Member }

func options(r *pb.RangeRequest) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithRange(string(r.RangeEnd)), clientv3.WithRev(r.Revision), clientv3.WithLimit(r.Limit)}
	if r.Serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	if r.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	return opts
}

func (s clientSource) page(ctx context.Context, r *pb.RangeRequest, b *batch) error {
	resp, err := s.member.Get(ctx, string(r.Key), options(r)...)
	if err != nil {
		return err
	}
	b.take(resp.Kvs, resp.Count)
	return nil
}

func (s clientSource) stream(ctx context.Context, r *pb.RangeRequest, next func() (*batch, error), send func(*batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := s.member.GetStream(ctx, string(r.Key), options(r)...)
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		for range stream { // the client's reader ends when it can hand over what it still has
		}
	}()
	for resp := range stream {
		if err := resp.Err(); err != nil {
			return err
		}
		b, err := next()
		if err != nil {
			return err
		}
		b.take(resp.Kvs, 0)
		if err := send(b); err != nil {
			return err
		}
	}
	return ctx.Err()
}
