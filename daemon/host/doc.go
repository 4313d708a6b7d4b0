// Package host connects a whole machine to a cluster's network: a network device of ours to which the cluster's addresses are routed,
// a resolver for the cluster's names, and what goes from one to the other. What root must do a warden does (host/warden), which is
// told as data; what is to be done is decided here, before anything is changed. How the cluster is reached is the caller's business:
// something that dials, pings and asks for names.
package host
