package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// memberWait is how long one member's answer is waited for.
func (c *Client) memberWait() time.Duration { return min(c.cfg.CommandTimeout, maxMemberWait) }

// status asks the member behind mc. A member that refuses the connection is tried again for a second, since it may be
// starting; one that hangs is given the whole wait.
func (c *Client) status(ctx context.Context, mc *memberConn) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.memberWait())
	defer cancel()
	conn := mc.etcd.ActiveConnection()
	maint := pb.NewMaintenanceClient(conn)
	for end := time.Now().Add(time.Second); ; {
		resp, err := maint.Status(ctx, &pb.StatusRequest{}, grpc.MaxCallRecvMsgSize(1<<20))
		if err == nil {
			return resp, nil
		}
		if status.Code(err) != codes.Unavailable || time.Now().After(end) || ctx.Err() != nil {
			return nil, c.explain(rpctypes.Error(err), mc.last)
		}
		conn.ResetConnectBackoff()
		if sleep(ctx, 150*time.Millisecond) != nil {
			return nil, c.explain(rpctypes.Error(err), mc.last)
		}
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// freshFor is how old a status may be to be compared with those of other members: some indexes later a member that
// was asked first would look as if it lagged behind.
const freshFor = 50 * time.Millisecond

type endpointAnswer struct {
	endpoint string
	at       time.Time // of the status
	status   *pb.StatusResponse
	list     *pb.MemberListResponse
	err      error
}

// ask asks one endpoint who answers there and, where members is set, for the member list as that member knows it.
func (c *Client) ask(ctx context.Context, endpoint string) endpointAnswer {
	a := endpointAnswer{endpoint: endpoint}
	ctx, cancel := context.WithTimeout(ctx, c.memberWait())
	defer cancel()
	mc, err := c.conn(ctx, endpoint)
	if err != nil {
		a.err = err
		return a
	}
	if a.status, a.err = c.status(ctx, mc); a.err != nil {
		return a
	}
	a.at = time.Now()
	cl := pb.NewClusterClient(mc.etcd.ActiveConnection())
	a.list, a.err = cl.MemberList(ctx, &pb.MemberListRequest{Linearizable: false})
	switch {
	case a.err != nil && a.status.IsLearner:
		a.err = fmt.Errorf("%w (a learner does not serve clients until it is promoted: give the endpoint of a voter too)", rpctypes.Error(a.err))
	case a.err != nil:
		a.err = c.explain(rpctypes.Error(a.err), mc.last)
	}
	return a
}

// View asks all members at once; each has a deadline of its own, so that one that hangs does not hide the others. A
// member that cannot be reached is in the view with the reason. It fails when no endpoint answers (ErrNoMember) and
// when the endpoints belong to different clusters.
func (c *Client) View(ctx context.Context) (View, error) {
	taken := time.Now()
	answers := c.askAll(ctx, c.cfg.Endpoints)
	if ctx.Err() != nil {
		return View{}, ctx.Err()
	}
	list, clusterID, err := c.memberList(answers)
	if errors.Is(err, ErrNoMember) {
		// All given endpoints are silent: perhaps the members that they serve hang. The others are known from before.
		c.mu.Lock()
		known := slices.Clone(c.known)
		c.mu.Unlock()
		if more := c.askAll(ctx, known); len(more) > 0 {
			answers = append(answers, more...)
			list, clusterID, err = c.memberList(answers)
		}
	}
	if err != nil {
		return View{}, err
	}
	v := View{ClusterID: clusterID, Taken: taken, Members: make([]Member, len(list))}
	given := map[ID]*endpointAnswer{}
	silent := map[string]error{} // endpoints that were asked a moment ago, and did not answer
	c.mu.Lock()
	for i := range answers {
		a := &answers[i]
		if a.status == nil {
			silent[a.endpoint] = a.err
			continue
		}
		id := ID(a.status.Header.MemberId)
		if _, ok := given[id]; !ok {
			given[id] = a
			c.home[id] = a.endpoint
		}
	}
	home := map[ID]string{}
	for id, e := range c.home {
		home[id] = e
	}
	c.known = nil
	for _, m := range list {
		c.known = append(c.known, m.ClientURLs...)
	}
	c.mu.Unlock()

	var wg sync.WaitGroup
	for i, m := range list {
		wg.Go(func() { v.Members[i] = c.readMember(ctx, m, given[ID(m.ID)], home[ID(m.ID)], silent) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return View{}, ctx.Err()
	}
	c.prefer(v)
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	spreadAlarms(&v, answers)
	return v, nil
}

// prefer makes requests for keys begin at a voter that answers, rather than at an endpoint that may hang.
func (c *Client) prefer(v View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := ""
	for _, m := range v.Members {
		if !m.Reachable || !m.Voter() {
			continue
		}
		if m.Endpoint == c.lastGood {
			return
		}
		if first == "" || m.Given {
			first = m.Endpoint
		}
	}
	c.lastGood = first
}

func (c *Client) askAll(ctx context.Context, endpoints []string) []endpointAnswer {
	answers := make([]endpointAnswer, len(endpoints))
	var wg sync.WaitGroup
	for i, e := range endpoints {
		wg.Go(func() { answers[i] = c.ask(ctx, e) })
	}
	wg.Wait()
	return answers
}

// memberList takes the list of the answer with the newest raft term and index, and refuses endpoints of different
// clusters.
func (c *Client) memberList(answers []endpointAnswer) ([]*pb.Member, ID, error) {
	var best *endpointAnswer
	var errs []error
	for i := range answers {
		a := &answers[i]
		if a.err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", a.endpoint, a.err))
		}
		if a.list == nil {
			continue
		}
		if best != nil && a.status.Header.ClusterId != best.status.Header.ClusterId {
			return nil, 0, fmt.Errorf("%w: %s to %s and %s to %s: give those of one cluster", ErrDifferentClusters,
				best.endpoint, ID(best.status.Header.ClusterId), a.endpoint, ID(a.status.Header.ClusterId))
		}
		if best == nil || a.status.RaftAppliedIndex > best.status.RaftAppliedIndex {
			best = a
		}
	}
	if best == nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrNoMember, errors.Join(errs...))
	}
	return best.list.Members, ID(best.status.Header.ClusterId), nil
}

func (c *Client) readMember(ctx context.Context, m *pb.Member, given *endpointAnswer, home string, silent map[string]error) Member {
	out := Member{
		ID: ID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs,
		Learner: m.IsLearner, Started: m.Name != "", QuotaSource: QuotaUnknown,
	}
	switch {
	case given != nil:
		out.Endpoint, out.Given = given.endpoint, true
	case home != "":
		out.Endpoint, out.Given = home, true
	case len(m.ClientURLs) > 0:
		out.Endpoint = m.ClientURLs[0]
	}
	if !out.Started {
		out.Error = "added to the cluster, but never started"
		return out
	}
	var wg sync.WaitGroup
	var p page
	asked := out
	wg.Go(func() { p = c.readPage(ctx, asked) })
	st, err := c.statusOf(ctx, &out, given, silent)
	wg.Wait()
	if err != nil {
		out.Error = err.Error()
	} else {
		out.setStatus(st)
	}
	out.DefragInFlight, out.GaugeError, out.Features = p.inFlight, p.problem, p.features
	out.setQuota(st, p.quota, int64(c.cfg.QuotaBackendBytes))
	return out
}

// statusOf asks a member for its status, by the endpoint given for it, else by the client URLs that it announces: the
// first that is answered by that member is kept. One that was silent a moment ago is not waited for again.
func (c *Client) statusOf(ctx context.Context, m *Member, given *endpointAnswer, silent map[string]error) (*pb.StatusResponse, error) {
	if given != nil && time.Since(given.at) < freshFor {
		return given.status, nil
	}
	endpoints := slices.Clone(m.ClientURLs)
	switch {
	case given != nil:
		endpoints = []string{m.Endpoint}
	case m.Endpoint != "" && !slices.Contains(endpoints, m.Endpoint):
		endpoints = append([]string{m.Endpoint}, endpoints...)
	}
	if len(endpoints) == 0 {
		return nil, errors.New("it announces no client URL: give an endpoint for it")
	}
	ctx, cancel := context.WithTimeout(ctx, c.memberWait())
	defer cancel()
	type answer struct {
		endpoint string
		st       *pb.StatusResponse
		err      error
	}
	answers := make(chan answer, len(endpoints))
	for _, e := range endpoints {
		if err := silent[e]; err != nil {
			answers <- answer{e, nil, err}
			continue
		}
		go func() {
			mc, err := c.conn(ctx, e)
			if err != nil {
				answers <- answer{e, nil, err}
				return
			}
			st, err := c.status(ctx, mc)
			if err == nil && ID(st.Header.MemberId) != m.ID {
				err = fmt.Errorf("answered by member %s", ID(st.Header.MemberId))
			}
			answers <- answer{e, st, err}
		}()
	}
	var errs []error
	for range endpoints {
		a := <-answers
		if a.err == nil {
			m.Endpoint = a.endpoint
			return a.st, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.endpoint, a.err))
	}
	return nil, errors.Join(errs...)
}

func (m *Member) setStatus(st *pb.StatusResponse) {
	m.Reachable = true
	m.Version = st.Version
	m.LeaderID = ID(st.Leader)
	m.Leader = st.Leader == st.Header.MemberId
	m.Learner = m.Learner || st.IsLearner
	m.RaftTerm = st.RaftTerm
	m.RaftIndex = st.RaftIndex
	m.RaftAppliedIndex = st.RaftAppliedIndex
	m.Revision = st.Header.Revision
	m.DBSize = st.DbSize
	m.DBSizeInUse = st.DbSizeInUse
	m.StatusErrors = st.Errors
	m.Downgrading = st.DowngradeInfo.GetEnabled()
}

// setQuota takes the quota from the best source: Status is right from 3.6.6 on (etcd-io/etcd#20790), the metric on
// every version.
func (m *Member) setQuota(st *pb.StatusResponse, metric *int64, flag int64) {
	switch {
	case st != nil && st.DbSizeQuota > 0 && atLeast(st.Version, "3.6.6"):
		q := st.DbSizeQuota
		m.Quota, m.QuotaSource = &q, QuotaFromStatus
	case metric != nil && *metric > 0:
		m.Quota, m.QuotaSource = metric, QuotaFromMetrics
	case flag > 0:
		m.Quota, m.QuotaSource = &flag, QuotaFromFlag
	}
}

func atLeast(version, floor string) bool {
	v, err := semver.NewVersion(version)
	return err == nil && !v.LessThan(*semver.New(floor))
}

// alarmText is an alarm in the text form of Status's errors; the text form of a message may have more white space.
var alarmText = regexp.MustCompile(`memberID:\s*(\d+)\s+alarm:\s*(\w+)`)

// spreadAlarms gives each member its alarms, of which every member keeps the whole list. It is read from Status and
// not by the Alarm call, which is a raft proposal even when it only lists.
func spreadAlarms(v *View, answers []endpointAnswer) {
	var all []string
	for _, m := range v.Members {
		all = append(all, m.StatusErrors...)
	}
	for _, a := range answers {
		if a.status != nil {
			all = append(all, a.status.Errors...)
		}
	}
	for _, text := range all {
		match := alarmText.FindStringSubmatch(text)
		if match == nil {
			continue
		}
		id, err := strconv.ParseUint(match[1], 10, 64)
		if err != nil {
			continue
		}
		for i := range v.Members {
			m := &v.Members[i]
			if m.ID == ID(id) && !slices.Contains(m.Alarms, match[2]) {
				m.Alarms = append(m.Alarms, match[2])
			}
		}
	}
}
