package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// MaxTree bounds one tree's names and content together: what one message carries, with room
// to spare. Kubernetes bounds a Secret or ConfigMap to 1 MiB.
const MaxTree = maxMessage - 1<<20

// Tree is the whole content of a folder or file of the pod at one moment: a snapshot of
// what kubelet swaps by its ..data link is never half old and half new.
type Tree struct {
	Root    string      // as it was asked for
	Entries []TreeEntry // a folder stands before what is in it
	Error   string      // why there is no content; empty: Entries is all of it
}

// TreeEntry is one file, folder or symbolic link in a Tree.
type TreeEntry struct {
	Path    string // relative to the root, with slashes; empty: the root itself, which may be a file
	Mode    uint32 // Linux's st_mode, type bits included
	Link    string // a symbolic link's target, as it is
	Content []byte // a regular file's
}

// WatchTrees calls got with each root's whole content, at once and after each change, until
// ctx ends or the tunnel breaks, and returns why. A root that cannot be read is a Tree with an
// Error; it is watched on. Roots are absolute paths. got is called by one goroutine at a
// time; the tree is its own.
func (c *Client) WatchTrees(ctx context.Context, roots []string, got func(*Tree)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, rawStream(methodTrees), methodPath(methodTrees))
	if err != nil {
		return c.watchError(ctx, err)
	}
	if err := stream.SendMsg(&tunnelpb.TreesRequest{Roots: roots}); err != nil && !errors.Is(err, io.EOF) {
		return c.watchError(ctx, err)
	}
	if err := stream.CloseSend(); err != nil {
		return c.watchError(ctx, err)
	}
	for {
		var m tunnelpb.Tree
		if err := stream.RecvMsg(&m); err != nil {
			return c.watchError(ctx, err)
		}
		got(treeOf(&m))
	}
}

func (c *Client) watchError(ctx context.Context, err error) error {
	const what = "watch the pod's files"
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if end := c.Err(); end != nil {
		return fmt.Errorf("%s: %w", what, end)
	}
	return fmt.Errorf("%s: %w", what, rpcError(err))
}

func (s *Server) serveTrees(stream grpc.ServerStream) error {
	var m tunnelpb.TreesRequest
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	if s.cfg.WatchTrees == nil {
		return status.Error(codes.Unimplemented, "this agent watches no files")
	}
	err := s.cfg.WatchTrees(stream.Context(), m.GetRoots(), func(t *Tree) error {
		return stream.SendMsg(treeMessage(t))
	})
	if err == nil || stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

func treeOf(m *tunnelpb.Tree) *Tree {
	t := &Tree{Root: m.GetRoot(), Error: m.GetError(), Entries: make([]TreeEntry, len(m.GetEntries()))}
	for i, e := range m.GetEntries() {
		t.Entries[i] = TreeEntry{Path: string(e.GetPath()), Mode: e.GetMode(), Link: string(e.GetLink()), Content: e.GetContent()}
	}
	return t
}

// treeMessage is treeOf's inverse.
func treeMessage(t *Tree) *tunnelpb.Tree {
	m := &tunnelpb.Tree{Root: t.Root, Error: strings.ToValidUTF8(t.Error, "?"), Entries: make([]*tunnelpb.TreeEntry, len(t.Entries))}
	for i, e := range t.Entries {
		m.Entries[i] = &tunnelpb.TreeEntry{Path: []byte(e.Path), Mode: e.Mode, Link: []byte(e.Link), Content: e.Content}
	}
	return m
}
