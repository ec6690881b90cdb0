//go:build race

package conntest

// Race tells that this is a build with the race detector. In those, pools drop what
// they are given now and then, so allocations aren't counted; and netpoll finds a
// connection by its descriptor instead of by a pointer, so that an event fetched before
// a close can end the next connection that gets the descriptor.
const Race = true
