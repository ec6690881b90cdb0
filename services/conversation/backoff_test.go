package conversation

import (
	"fmt"
	"testing"
)

func TestBackOff(t *testing.T) {
	var b backOff
	got := ""
	for range 20 {
		if n, tell := b.note(true); tell {
			got += fmt.Sprint(n, " ")
		}
	}
	n, tell := b.note(false)
	got += fmt.Sprint(n, tell, " ")
	n, tell = b.note(false)
	got += fmt.Sprint(n, tell, " ")
	n, tell = b.note(true)
	got += fmt.Sprint(n, tell)
	if want := "1 2 4 8 16 20 true 0 false 1 true"; got != want {
		t.Errorf("told at %q, want %q", got, want)
	}
}
