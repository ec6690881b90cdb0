package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/gochat-im/gochat/protocol/code"
)

// maxBody is the largest body of an operator's request.
const maxBody = 64 << 10

// JSON makes a route of fn: the request's body is its argument (an empty body: the zero
// value; unknown fields are refused), what it returns the answer. An error is answered as
// {"error":"..."}: with 400 if it is a *code.Error, the operator's mistake, with 500 otherwise.
func JSON[In, Out any](fn func(ctx context.Context, in In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			refuse(w, http.StatusBadRequest, "the body can't be read: "+err.Error())
			return
		}
		out, err := fn(r.Context(), in)
		if err != nil {
			status := http.StatusInternalServerError
			var mistake *code.Error
			if errors.As(err, &mistake) && mistake.Code != code.Internal {
				status = http.StatusBadRequest
			}
			refuse(w, status, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	}
}

type refusal struct {
	Error string `json:"error"`
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(refusal{text})
}
