// Package load makes and measures traffic over plain TCP: a server with a few
// modes, and a client that measures bulk throughput, round trips, connects and
// bursts of connections against it.
//
// It knows nothing of Kubernetes or of how its bytes travel; whoever holds the
// two ends decides what lies between them.
//
// # Wire
//
// A connection begins with eight bytes of the client: 'T', 'B', the mode, a
// zero, and a duration in milliseconds (unsigned, big-endian). Then, by mode:
//
//   - echo: every byte comes back.
//   - source: the server answers one byte; the client sends one byte (go);
//     the server sends chunks for the duration and marks the last one.
//   - sink: the server answers one byte; the client sends chunks and marks
//     the last one; the server answers the bytes it counted (8, big-endian).
//   - name: the server answers its name, preceded by its length (2,
//     big-endian), and closes.
//
// A chunk has a fixed size, and its first byte says whether more follow. So
// every exchange ends in an orderly way without a half-close, which not every
// way that is to be compared carries (kubectl port-forward does not).
package load
