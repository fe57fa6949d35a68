// Package vpa sizes the etcd container: CPU and memory requests, the memory
// limit, GOMEMLIMIT, and advice for the backend quota and the volume.
//
// Samples go into a Recommender, which keeps decaying histograms that are
// compatible with the Vertical Pod Autoscaler's v3 checkpoints, a long memory
// of hourly peaks, and a model of what drives etcd's memory. Every number that
// comes out is explained as a sum of its parts.
//
// The package never changes a container by itself: a Recommender only
// calculates, and applying a recommendation is a step of its own with its own
// gates. A Recommender is not safe for concurrent use.
package vpa
