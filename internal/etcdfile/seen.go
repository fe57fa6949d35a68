package etcdfile

import (
	"bytes"
	"hash/maphash"

	"google.golang.org/protobuf/encoding/protowire"
)

// seen is the set of keys met so far. It keeps no key: a slot is a part of the key's hash and where in the file the
// key stands, so that two keys are told apart for certain. A slot has 8 bytes and each of the shards is 40 to 80 per
// cent full, which makes 10 to 20 bytes a key. The place of a slot follows from the part of the hash that it holds, so
// that a shard grows without a look at the keys, which lie all over the file.
type seen struct {
	data   []byte
	seed   maphash.Seed
	shards [256]shard

	touched uint64 // keeps prepare's reads from being left out
}

type shard struct {
	slots []uint64 // tag and position; 0 is empty
	count int
}

const (
	positionBits = 40 // a TiB; etcd's database is a hundredth of that at most. The other 24 place 2^32 keys in the shards
	positionMask = 1<<positionBits - 1
	tagMask      = 1<<(64-positionBits) - 1
	firstSlots   = 64
)

func newSeen(data []byte) *seen { return &seen{data: data, seed: maphash.MakeSeed()} }

// prepare hashes a key, and touches the slot where add will look.
func (s *seen) prepare(key []byte) (hash uint64) {
	hash = maphash.Bytes(s.seed, key)
	if sh := &s.shards[hash>>56]; len(sh.slots) > 0 {
		s.touched += sh.slots[hash>>32&tagMask&uint64(len(sh.slots)-1)]
	}
	return hash
}

// add tells whether the key with that hash was there already. at is where in the file the key's length stands, before
// the key.
func (s *seen) add(hash uint64, key []byte, at int64) bool {
	sh := &s.shards[hash>>56]
	if sh.count*5 >= len(sh.slots)*4 {
		sh.grow()
	}
	tag := hash >> 32 & tagMask
	mask := uint64(len(sh.slots) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		slot := sh.slots[i]
		if slot == 0 {
			sh.slots[i] = tag<<positionBits | uint64(at)
			sh.count++
			return false
		}
		if slot>>positionBits == tag && bytes.Equal(s.key(int64(slot&positionMask)), key) {
			return true
		}
	}
}

func (s *seen) key(at int64) []byte {
	key, _ := protowire.ConsumeBytes(s.data[at:])
	return key
}

func (sh *shard) grow() {
	old := sh.slots
	sh.slots = make([]uint64, max(firstSlots, 2*len(old)))
	mask := uint64(len(sh.slots) - 1)
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		i := slot >> positionBits & mask
		for sh.slots[i] != 0 {
			i = (i + 1) & mask
		}
		sh.slots[i] = slot
	}
}
