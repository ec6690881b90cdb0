package node

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// shellWords splits a line as a shell does, as far as the examples need it.
func shellWords(t *testing.T, line string, vars map[string]string) (out []string) {
	t.Helper()
	word, quote, open := "", byte(0), false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote == 0 && (c == '\'' || c == '"'):
			quote, open = c, true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && c == ' ':
			if open || word != "" {
				out = append(out, word)
			}
			word, open = "", false
		case quote != '\'' && c == '$':
			name := regexp.MustCompile(`^[A-Z]+`).FindString(line[i+1:])
			value, ok := vars[name]
			if !ok {
				t.Fatalf("%s: $%s is not set", line, name)
			}
			word += value
			i += len(name)
		default:
			word += string(c)
		}
	}
	return append(out, word)
}

// The examples of the documentation do what it says, in its order.
func TestHTTPDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/HTTP.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newTown(t, nil)
	c := w.http()
	vars := map[string]string{"URL": ""}
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			args := shellWords(t, line, vars)
			if strings.HasPrefix(line, "gochat apikey create ") && len(args) == 6 {
				vars["KEY"] = w.key(strings.Split(args[5], ",")...)
				continue
			}
			if args[0] != "curl" {
				t.Errorf("%s: no call", line)
				continue
			}
			method, path := "GET", ""
			var body any
			call := *c
			call.header = map[string]string{}
			call.token = ""
			for i := 1; i < len(args); i++ {
				switch args[i] {
				case "-X":
					i++
					method = args[i]
				case "-d":
					i++
					body = args[i]
				case "-H":
					i++
					name, value, _ := strings.Cut(args[i], ": ")
					call.header[name] = value
				default:
					path = args[i]
				}
			}
			status, b, _ := call.do(method, path, body)
			ran++
			if status != 200 {
				t.Errorf("%s: %d %s", line, status, b)
				continue
			}
			var out struct {
				AccessToken    string `json:"access_token"`
				UserID         string `json:"user_id"`
				ConversationID string `json:"conversation_id"`
				Key            string `json:"key"`
			}
			if err := json.Unmarshal(b, &out); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if out.AccessToken != "" && out.UserID == "alice" {
				vars["TOKEN"] = out.AccessToken
			}
			if out.ConversationID != "" && vars["CONVERSATION"] == "" {
				vars["CONVERSATION"] = out.ConversationID
			}
		}
	}
	if ran < 18 {
		t.Errorf("%d examples", ran)
	}
}
