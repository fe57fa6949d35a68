// Package splitter answers one question on measured numbers: should some resources, events above all, live in an etcd
// cluster of their own? It gathers evidence (a census, a snapshot's history, the write-ahead log, metrics), gives a
// verdict with its numbers, plans the move for the usual installers, prepares the new members' data directories, lints
// the API server's --etcd-servers-overrides flag and verifies a split that was made.
//
// It never changes an etcd cluster or an API server: what it writes are files (plans, manifests, new data directories)
// and its own evidence. What is left of a moved prefix in the main cluster is deleted by package bulkclean, by plan.
//
// The types are values without locks; the exported functions are safe for concurrent use.
package splitter
