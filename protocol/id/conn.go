package id

// A connection of the cluster has an incarnation, a number never given twice while the worker
// numbers of live edges differ and their clocks don't go back by more than an edge is down:
//
//	34 bits  second of the Unix epoch in which it was opened, or later
//	10 bits  worker number of its edge
//	20 bits  its place at the edge
const (
	ConnPlaceBits  = 20
	ConnWorkerBits = 10
)

// ConnWorker returns the worker number of the edge that has connection conn.
func ConnWorker(conn uint64) uint32 { return uint32(conn>>ConnPlaceBits) & (1<<ConnWorkerBits - 1) }

// ConnSecond returns the second of the Unix epoch in which connection conn was opened.
func ConnSecond(conn uint64) uint64 { return conn >> (ConnPlaceBits + ConnWorkerBits) }
