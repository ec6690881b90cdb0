package storage

import (
	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/msgstore"
)

// busRows gives the embedded bus its place in the stored format.
type busRows struct{ keys msgstore.Keys }

// busPartition is the only one: ordered keys cost less than spread ones.
const busPartition = 0

func (r busRows) Refs(dst []byte) []byte { return r.keys.BusRefs(dst, busPartition) }

func (r busRows) AppendRef(dst []byte, ref *log.Ref) []byte {
	row := msgstore.BusRef(*ref)
	return row.Append(dst)
}

func (r busRows) ParseRef(value []byte) (log.Ref, error) {
	row, err := msgstore.ParseBusRef(value)
	return log.Ref(row), err
}

func (r busRows) Position(dst []byte, group string) []byte {
	return r.keys.BusPosition(dst, group, busPartition)
}

func (r busRows) AppendPosition(dst []byte, offset uint64) []byte {
	return msgstore.AppendBusPosition(dst, offset)
}

func (r busRows) ParsePosition(value []byte) (uint64, error) { return msgstore.ParseBusPosition(value) }
