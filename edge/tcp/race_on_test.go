//go:build race

package tcp_test

// raceBuild: under the race detector netpoll finds a connection by its descriptor
// instead of by a pointer, so an event that was fetched before a close can end the
// next connection that gets the descriptor. Only in such builds.
const raceBuild = true
