// Package connect keeps a laptop connected to namespaces of clusters, without taking anybody's place: one agent in each, which all
// sessions of a daemon share. Who wants to use one acquires a Lease; the first one stands the agent up, and the last one takes
// it away. Meanwhile the connection mends itself: a tunnel that breaks is dialled again, and an agent that is gone (deleted, evicted, or
// ended since the laptop slept for long) is made anew.
//
// What goes through it is the leaseholders' business: a command in a sandbox, the whole laptop, a proxy. The package knows neither
// sessions nor this machine's network.
package connect
