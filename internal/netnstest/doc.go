// Package netnstest runs etcd clusters whose members have a network namespace each, as machines have: with a keeper
// beside each member, and clients on the bridge between them. Programs that use it run in namespaces of their own, so
// nothing of it is seen by the machine or outlives the program. It needs Linux, iproute2 and root, or user namespaces.
package netnstest
