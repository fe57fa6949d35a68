package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestEachTurn proves that an offer to nobody is told also where it was withdrawn before the watch heard of it, and of
// other turns only how they stand.
func TestEachTurn(t *testing.T) {
	at := int64(0)
	put := func(member ID, state TurnState) *clientv3.Event {
		at++
		value, err := json.Marshal(Turn{ID: fmt.Sprint(at), Member: member, State: state})
		if err != nil {
			t.Fatal(err)
		}
		return &clientv3.Event{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Value: value, ModRevision: at}}
	}
	gone := &clientv3.Event{Type: clientv3.EventTypeDelete, Kv: &mvccpb.KeyValue{}}
	for name, tt := range map[string]struct {
		events []*clientv3.Event
		want   []ID // members, 0 for nobody
		last   bool // one stands at the end
	}{
		"an offer to nobody, withdrawn":        {[]*clientv3.Event{put(0, TurnOffered), gone}, []ID{0}, false},
		"two of them":                          {[]*clientv3.Event{put(0, TurnOffered), gone, put(0, TurnOffered)}, []ID{0, 0}, true},
		"an offer to a member, withdrawn":      {[]*clientv3.Event{put(7, TurnOffered), gone}, nil, false},
		"a turn that was taken":                {[]*clientv3.Event{put(7, TurnOffered), put(7, TurnTaken)}, []ID{7}, true},
		"an offer to nobody, then to a member": {[]*clientv3.Event{put(0, TurnOffered), gone, put(7, TurnOffered)}, []ID{0, 7}, true},
		"nothing":                              {nil, nil, false},
	} {
		var got []ID
		var last *Turn
		eachTurn(tt.events, func(turn *Turn) {
			if last = turn; turn != nil {
				got = append(got, turn.Member)
			}
		})
		if !slices.Equal(got, tt.want) || (last != nil) != tt.last {
			t.Errorf("%s: got %v and at the end %+v, want %v", name, got, last, tt.want)
		}
	}
}
