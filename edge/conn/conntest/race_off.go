//go:build !race

package conntest

// Race tells that this is a build with the race detector.
const Race = false
