// Package bulkclean deletes finished objects in bulk where Kubernetes can no longer list them: it reads their names
// from etcd or from a snapshot, writes a plan with a reason for every object, and carries the plan out one guarded
// deletion at a time, through the API server or in etcd itself.
//
// It never deletes an object that is not exactly in the state in which it was planned, never more than one key in a
// transaction, never before the object is exported and the intent is written down, and never compacts. It lists
// nothing through the API server.
//
// A Planner and an Executor are for one run at a time; everything else is safe for concurrent use.
package bulkclean
