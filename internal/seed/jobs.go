package seed

import (
	"fmt"
	"maps"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var batch = schema.GroupVersion{Group: "batch", Version: "v1"}

// CronJobSet is a number of CronJobs named STEM-0, STEM-1 and so on.
type CronJobSet struct {
	Namespace string
	Stem      string
	Count     int
	Schedule  string // every five minutes where empty
	// Recreated CronJobs were deleted and made again under their name: their uid differs from the one that Jobs of
	// Owner CronJobRecreated point at.
	Recreated     bool
	SuccessfulMax *int32 // spec.successfulJobsHistoryLimit; the API server's default of 3 where nil
}

// JobOwner says who made the Jobs of a set.
type JobOwner int

// Owners of Jobs. Those by a CronJob belong to the CronJobs whose names begin with OwnerStem, in turn.
const (
	OwnerNone             JobOwner = iota // nobody: made by a client
	OwnerCronJob                          // a CronJob that exists, if a CronJobSet of that stem is seeded
	OwnerCronJobGone                      // a CronJob that does not exist any more
	OwnerCronJobRecreated                 // a CronJob that exists under the name with another uid
	OwnerUnknownKind                      // a custom resource that nobody has heard of
)

// JobState is how far the Jobs of a set have come.
type JobState int

// States of Jobs.
const (
	JobComplete  JobState = iota // finished: Complete is True
	JobFailed                    // finished: Failed is True
	JobRunning                   // one active pod, no condition
	JobSuspended                 // Suspended is True, nothing ran
	JobOnTheWay                  // SuccessCriteriaMet is True, its pods are still terminating: not finished
	JobUncounted                 // Complete is True but pods are still being counted
)

// JobSet is a number of Jobs alike. Their names are STEM- and a number or a random end, as their owner makes them.
type JobSet struct {
	Namespace string
	Stem      string
	Count     int
	State     JobState
	Owner     JobOwner
	OwnerStem string // Stem of a CronJobSet; Stem where empty
	Owners    int    // how many CronJobs of that stem own them in turn; 1 where 0

	Youngest, Oldest time.Duration // how long ago they finished (or were created); 24 h to 60 days where both are 0

	Pods        int // pods of each, finished with it
	Bytes       int // more bytes in each, as an environment variable
	Labels      map[string]string
	Annotations map[string]string
	Finalizers  []string
	Deleting    bool   // a deletionTimestamp is set
	TTL         *int32 // spec.ttlSecondsAfterFinished
	ManagedBy   *string
}

func cronJobName(stem string, i int) string { return fmt.Sprintf("%s-%d", stem, i) }

func (g *Generator) cronJobs(yield emit) bool {
	for _, s := range g.o.CronJobs {
		for i := range s.Count {
			c := &batchv1.CronJob{ObjectMeta: g.meta("cronjobs", s.Namespace, cronJobName(s.Stem, i), g.age(70*24*time.Hour, 90*24*time.Hour))}
			if s.Recreated {
				c.UID = g.uid("cronjobs", s.Namespace, c.Name, 1)
				c.CreationTimestamp = g.age(time.Hour, 2*time.Hour)
			}
			c.Spec.Schedule = s.Schedule
			if c.Spec.Schedule == "" {
				c.Spec.Schedule = "*/5 * * * *"
			}
			c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
			c.Spec.Suspend = ptr(false)
			c.Spec.SuccessfulJobsHistoryLimit = ptr(int32(3))
			if s.SuccessfulMax != nil {
				c.Spec.SuccessfulJobsHistoryLimit = s.SuccessfulMax
			}
			c.Spec.FailedJobsHistoryLimit = ptr(int32(1))
			c.Spec.JobTemplate.Spec.Template.Spec = g.podSpec(s.Stem, corev1.RestartPolicyNever)
			last := g.age(0, 5*time.Minute)
			c.Status.LastScheduleTime = &last
			if !yield(g.builtin(batch.WithKind("CronJob"), "cronjobs", c)) {
				return false
			}
		}
	}
	return true
}

const jobFields = `{"f:metadata":{"f:ownerReferences":{".":{}}},"f:spec":{"f:backoffLimit":{},"f:completionMode":{},"f:completions":{},"f:manualSelector":{},"f:parallelism":{},"f:podReplacementPolicy":{},"f:suspend":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{".":{},"f:command":{},"f:env":{".":{}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{".":{},"f:requests":{".":{},"f:cpu":{},"f:memory":{}}},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}}}`

const jobStatusFields = `{"f:status":{"f:completionTime":{},"f:conditions":{},"f:ready":{},"f:startTime":{},"f:succeeded":{},"f:terminating":{},"f:uncountedTerminatedPods":{}}}`

func (g *Generator) jobs(yield emit) bool {
	for _, s := range g.o.Jobs {
		if s.Youngest == 0 && s.Oldest == 0 {
			s.Youngest, s.Oldest = 24*time.Hour, 60*24*time.Hour
		}
		for i := range s.Count {
			j := g.job(s, i)
			if !yield(g.builtin(batch.WithKind("Job"), "jobs", j)) {
				return false
			}
			phase := corev1.PodSucceeded
			switch s.State {
			case JobFailed:
				phase = corev1.PodFailed
			case JobRunning:
				phase = corev1.PodRunning
			}
			for range s.Pods {
				ref := controllerRef("batch/v1", "Job", j.Name, j.UID)
				p := g.pod(j.Namespace, j.Name+"-"+g.suffix(5), ref, j.Spec.Template.Labels, phase, j.CreationTimestamp)
				if s.State == JobRunning {
					p.Finalizers = []string{batchv1.JobTrackingFinalizer}
				}
				if !yield(g.builtin(core.WithKind("Pod"), "pods", p)) {
					return false
				}
			}
		}
	}
	return true
}

func (g *Generator) job(s JobSet, i int) *batchv1.Job {
	ended := g.age(s.Youngest, s.Oldest)
	started := metav1.NewTime(ended.Add(-time.Duration(30+g.rng.IntN(300)) * time.Second))
	ownerStem, owners := s.OwnerStem, max(1, s.Owners)
	if ownerStem == "" {
		ownerStem = s.Stem
	}
	cron := cronJobName(ownerStem, i%owners)
	name := fmt.Sprintf("%s-%s%05d", s.Stem, g.suffix(4), i)
	var refs []metav1.OwnerReference
	annotations := maps.Clone(s.Annotations)
	switch s.Owner {
	case OwnerCronJob, OwnerCronJobGone, OwnerCronJobRecreated:
		// The CronJob controller names a Job by the minute that it was scheduled for: one a minute here.
		name = fmt.Sprintf("%s-%d", cron, g.o.Now.Add(-s.Oldest).Unix()/60+int64(i/owners))
		refs = []metav1.OwnerReference{controllerRef("batch/v1", "CronJob", cron, g.uid("cronjobs", s.Namespace, cron, 0))}
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] = started.Truncate(time.Minute).Format(time.RFC3339)
	case OwnerUnknownKind:
		refs = []metav1.OwnerReference{controllerRef("flows.example.com/v1", "Flow", s.Stem, g.uid("flows", s.Namespace, s.Stem, 0))}
	}
	manager := "kube-controller-manager"
	if s.Owner == OwnerNone {
		manager = "submitter"
	}
	j := &batchv1.Job{ObjectMeta: g.meta("jobs", s.Namespace, name, started)}
	j.Generation = 1
	j.OwnerReferences, j.Annotations, j.Labels, j.Finalizers = refs, annotations, s.Labels, s.Finalizers
	j.ManagedFields = []metav1.ManagedFieldsEntry{
		managed(manager, "Update", "batch/v1", "", started, jobFields),
		managed("kube-controller-manager", "Update", "batch/v1", "status", ended, jobStatusFields),
	}
	if s.Deleting {
		at := g.age(time.Minute, time.Hour)
		j.DeletionTimestamp = &at
		j.DeletionGracePeriodSeconds = ptr(int64(0))
		if len(j.Finalizers) == 0 {
			j.Finalizers = []string{metav1.FinalizerDeleteDependents}
		}
	}
	g.jobSpec(j, s)
	jobStatus(j, s.State, started, ended)
	return j
}

func (g *Generator) jobSpec(j *batchv1.Job, s JobSet) {
	controller := map[string]string{batchv1.ControllerUidLabel: string(j.UID)}
	labels := map[string]string{
		batchv1.ControllerUidLabel: string(j.UID), batchv1.JobNameLabel: j.Name,
		"controller-uid": string(j.UID), "job-name": j.Name,
	}
	maps.Copy(labels, s.Labels)
	one := int32(1)
	j.Spec = batchv1.JobSpec{
		Parallelism: &one, Completions: &one, BackoffLimit: ptr(int32(6)),
		Selector:                &metav1.LabelSelector{MatchLabels: controller},
		Template:                corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: g.podSpec(s.Stem, corev1.RestartPolicyNever)},
		CompletionMode:          ptr(batchv1.NonIndexedCompletion),
		Suspend:                 ptr(s.State == JobSuspended),
		PodReplacementPolicy:    ptr(batchv1.TerminatingOrFailed),
		TTLSecondsAfterFinished: s.TTL,
		ManagedBy:               s.ManagedBy,
	}
	if s.Bytes > 0 {
		main := &j.Spec.Template.Spec.Containers[0]
		main.Env = append(main.Env, corev1.EnvVar{Name: "PAYLOAD", Value: string(g.text(s.Bytes))})
	}
}

// jobStatus is the status as the Job controller leaves it.
func jobStatus(j *batchv1.Job, state JobState, started, ended metav1.Time) {
	condition := func(t batchv1.JobConditionType, reason, message string) {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{
			Type: t, Status: corev1.ConditionTrue, LastProbeTime: ended, LastTransitionTime: ended, Reason: reason, Message: message,
		})
	}
	st := &j.Status
	st.StartTime = &started
	st.Ready, st.Terminating = ptr(int32(0)), ptr(int32(0))
	st.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	const reached = "Reached expected number of succeeded pods"
	switch state {
	case JobComplete:
		condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, reached)
		condition(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, reached)
		st.CompletionTime, st.Succeeded = &ended, 1
	case JobUncounted:
		condition(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, reached)
		st.CompletionTime, st.Succeeded = &ended, 1
		st.UncountedTerminatedPods.Succeeded = []types.UID{j.UID}
	case JobFailed:
		const why = "Job has reached the specified backoff limit"
		condition(batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, why)
		condition(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, why)
		st.Failed = 7
	case JobOnTheWay:
		condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, reached)
		st.Terminating = ptr(int32(1))
	case JobRunning:
		st.Active, st.Ready = 1, ptr(int32(1))
	case JobSuspended:
		st.StartTime = nil
		condition(batchv1.JobSuspended, "JobSuspended", "Job suspended")
	}
}
