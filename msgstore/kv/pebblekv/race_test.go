//go:build race

package pebblekv_test

const raceEnabled = true
