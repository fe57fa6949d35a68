package etcdfile

import (
	"bytes"
	"hash/maphash"

	"google.golang.org/protobuf/encoding/protowire"
)

// seen is the set of keys met so far. It keeps no key: a slot is a part of the key's hash and where in the file the
// key stands, so that two keys are told apart for certain. A slot has 8 bytes and each of the shards is 40 to 80 per
// cent full, which makes 10 to 20 bytes a key.
type seen struct {
	data   []byte
	seed   maphash.Seed
	shards [256]shard
}

type shard struct {
	slots []uint64 // tag and position; 0 is empty
	count int
}

const (
	positionBits = 40 // a TiB; etcd's database is a hundredth of that at most
	positionMask = 1<<positionBits - 1
	firstSlots   = 64
)

func newSeen(data []byte) *seen { return &seen{data: data, seed: maphash.MakeSeed()} }

// add tells whether the key was there already. at is where in the file the key's length stands, before the key.
func (s *seen) add(key []byte, at int64) bool {
	h := maphash.Bytes(s.seed, key)
	sh := &s.shards[h>>56]
	if sh.count*5 >= len(sh.slots)*4 {
		s.grow(sh)
	}
	tag := h >> 32 & (1<<(64-positionBits) - 1) << positionBits
	mask := uint64(len(sh.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		slot := sh.slots[i]
		if slot == 0 {
			sh.slots[i] = tag | uint64(at)
			sh.count++
			return false
		}
		if slot&^positionMask == tag && bytes.Equal(s.key(int64(slot&positionMask)), key) {
			return true
		}
	}
}

func (s *seen) key(at int64) []byte {
	key, _ := protowire.ConsumeBytes(s.data[at:])
	return key
}

func (s *seen) grow(sh *shard) {
	old := sh.slots
	sh.slots = make([]uint64, max(firstSlots, 2*len(old)))
	mask := uint64(len(sh.slots) - 1)
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		i := maphash.Bytes(s.seed, s.key(int64(slot&positionMask))) & mask
		for sh.slots[i] != 0 {
			i = (i + 1) & mask
		}
		sh.slots[i] = slot
	}
}
