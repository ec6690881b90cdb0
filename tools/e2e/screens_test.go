//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// cast are the people of the screens; their names are what layouts break on.
var cast = []struct{ id, name string }{
	{"amelie", "Amélie Laurent"}, {"xiaoming", "王小明"}, {"yusuf", "يوسف الحداد"}, {"grace", "Grace Hopper"}, {"kenji", "健二 🦊"},
	{"long", "Bartholomäus Maximilian von und zu Hohenlohe-Waldenburg"}, {"priya", "Priya"}, {"sam", "Sam O’Neill"}, {"nadia", "Надя"},
}

// scene is a server with people who have talked.
type scene struct {
	t      *testing.T
	s      *server
	people map[string]*person
	team   id.ConversationID
}

func (p *person) call(_ any, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

func (p *person) says(to gochat.Target, m gochat.Content) gochat.Ack {
	p.t.Helper()
	r, err := p.client.Send(context.Background(), to, m)
	p.call(nil, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ack, err := r.Wait(ctx)
	p.call(nil, err)
	return ack
}

func newScene(t *testing.T) *scene {
	s := newServer(t, binary)
	s.start()
	c := &scene{t: t, s: s, people: map[string]*person{}}
	for _, who := range append(cast, struct{ id, name string }{"alice", "Alice"}) {
		p := signUp(s, who.id)
		p.connect(gochat.NewMemoryStore())
		p.call(p.client.SetProfile(t.Context(), gochat.ProfileChange{Name: &who.name}))
		c.people[who.id] = p
	}
	alice := c.people["alice"]
	to := gochat.ToUser("alice")
	for _, m := range []struct{ from, text string }{
		{"long", "A single very long word: Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"},
		{"yusuf", "مرحبا أليس، هل أنت هناك؟"}, {"nadia", "Привет! Как дела?"}, {"kenji", "🎉🎉🎉"}, {"xiaoming", "明天下午三点开会，地点在二楼会议室。"},
		{"priya", "Can you send me the slides before noon? The ones with the new numbers, not last week’s."}, {"sam", "ok"},
	} {
		c.people[m.from].says(to, gochat.Text(m.text))
	}
	for i := range 12 {
		c.people["priya"].says(to, gochat.Text(fmt.Sprintf("Slide %d is missing", i+1)))
	}
	alice.call(alice.client.Pin(t.Context(), id.Direct("alice", "xiaoming"), true))
	alice.call(alice.client.Mute(t.Context(), id.Direct("alice", "priya"), true))

	made, err := c.people["grace"].client.CreateGroup(t.Context(), gochat.NewGroup{Name: "Harbour team", Users: []id.UserID{"alice", "amelie", "xiaoming", "yusuf", "kenji", "long"}})
	if err != nil {
		t.Fatal(err)
	}
	c.team = made.Conversation
	team := gochat.ToConversation(c.team)
	grace := c.people["grace"]
	first := grace.says(team, gochat.Text("Good morning! The crane inspection moved to Thursday."))
	c.people["amelie"].says(team, gochat.Content{Text: "Thursday works. I’ll bring the papers.", ReplyToSeq: first.Seq})
	c.people["amelie"].says(team, gochat.Text("They are also here: https://example.com/inspection/2026?part=2"))
	c.people["yusuf"].says(team, gochat.Text("سأكون هناك في الساعة التاسعة"))
	grace.call(grace.client.SetRole(t.Context(), c.team, "amelie", 2))
	c.people["kenji"].says(team, gochat.Content{Type: 2, Text: `{"url":"/icon.svg","name":"berth 7.svg"}`})
	c.people["long"].says(team, gochat.Text("Bin dabei, aber erst gegen zehn, vorher ist die Rheinbrücke gesperrt."))
	grace.says(team, gochat.Content{Text: "@alice can you book the boat?", Mentions: []string{"alice"}})

	// Enough to scroll, on both sides.
	amelie := c.people["amelie"]
	var last uint64
	for i := range 70 {
		last = amelie.says(to, gochat.Text(fmt.Sprintf("Note %d of the log", i+1))).Seq
		if i%3 == 2 {
			last = alice.says(gochat.ToUser("amelie"), gochat.Text(fmt.Sprintf("Noted %d", i+1))).Seq
		}
	}
	for _, m := range []struct {
		from *person
		text string
	}{
		{amelie, "Did you see the fog this morning? You could not even make out the lighthouse."}, {alice, "I did! It lifted around ten."}, {alice, "👍"},
		{amelie, "Shall we still go out on Saturday?\n\n• meet at 8:30\n• bring something warm\n• back before dark"}, {alice, "Yes. I’ll bring coffee ☕"},
	} {
		peer := to
		if m.from == alice {
			peer = gochat.ToUser("amelie")
		}
		last = m.from.says(peer, gochat.Text(m.text)).Seq
	}
	for _, p := range []*person{alice, amelie} {
		_, _, err := p.client.MarkRead(t.Context(), id.Direct("alice", "amelie"), last)
		p.call(nil, err)
	}
	return c
}

func (c *scene) signIn(v *view, name string) {
	c.t.Helper()
	v.do("signIn", name, "password of "+name)
}

// documented are the screens of docs/WEB.md.
var documented = []string{
	"desktop-sign-in-wrong", "desktop-empty", "desktop-list", "desktop-group", "desktop-chat-dark", "desktop-group-info", "desktop-new-group", "desktop-search",
	"desktop-settings-dark", "desktop-offline", "desktop-refused", "desktop-chinese", "phone-sign-in", "phone-list", "phone-group", "phone-settings",
	"phone-dark-list", "phone-dark-group", "phone-dark-group-info",
}

// The main screens, from real use: on a desktop and a phone, light and dark, in both languages, empty and with errors. Nothing overlaps or is
// cut off, which is measured here. With SCREENS those that the docs show are kept in that folder.
func TestScreens(t *testing.T) {
	scratch := t.TempDir()
	c := newScene(t)
	b := openBrowser(t)
	url := "http://" + c.s.http + "/"
	shot := func(v *view, name string) {
		t.Helper()
		path := filepath.Join(scratch, name+".png")
		if kept := os.Getenv("SCREENS"); kept != "" && slices.Contains(documented, name) {
			path = filepath.Join(kept, name+".png")
		}
		v.do("shot", path)
		fewColours(t, path)
		if wrong, _ := v.do("amiss").([]any); len(wrong) > 0 {
			t.Errorf("%s: %v", name, wrong)
		}
		if st, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if st.Size() > 120<<10 {
			t.Errorf("%s has %d bytes", name, st.Size())
		}
	}

	door := b.open("door", look{URL: url, Width: 1000, Height: 640})
	shot(door, "desktop-sign-in")
	door.do("fill", "User name", "alice")
	door.do("fill", "Password", "wrong password")
	door.do("clickName", "button", "Sign in")
	door.do("waitText", "Unknown name")
	shot(door, "desktop-sign-in-wrong")
	door.do("fill", "User name", "newcomer")
	door.do("signUp", "newcomer", "password of newcomer")
	door.do("waitText", "No chats yet")
	shot(door, "desktop-empty")
	door.sane()
	door.do("close")

	desk := b.open("desk", look{URL: url, Width: 1000, Height: 640, Permissions: []string{"clipboard-write", "notifications"}})
	c.signIn(desk, "alice")
	desk.do("waitText", "Harbour team")
	desk.do("waitText", "健二")
	shot(desk, "desktop-list")
	desk.do("openChat", "Amélie Laurent")
	desk.do("waitLast", "Yes. I’ll bring coffee ☕")
	desk.do("waitMark", "chat.read")
	desk.do("openChat", "Harbour team")
	desk.do("waitText", "can you book the boat")
	shot(desk, "desktop-group")
	desk.do("click", "header.row .head")
	desk.do("waitText", "Leave the group")
	desk.do("waitText", "owner")
	shot(desk, "desktop-group-info")
	desk.do("press", "Escape")
	desk.do("clickName", "button", "New group")
	desk.do("fill", "Name of the group", "Saturday trip")
	desk.do("fillBox", "Members", "gra")
	desk.do("press", "Enter")
	desk.do("waitText", "Grace Hopper")
	desk.do("waitCount", ".chosen li", 1)
	desk.do("fillBox", "Members", "ken")
	desk.do("press", "Enter")
	desk.do("waitCount", ".chosen li", 2)
	shot(desk, "desktop-new-group")
	desk.do("press", "Escape")
	desk.do("clickName", "button", "Settings and profile")
	desk.do("waitText", "This one")
	shot(desk, "desktop-settings")
	desk.do("press", "Escape")
	desk.do("fill", "Search", "gra")
	desk.do("waitText", "People")
	shot(desk, "desktop-search")
	desk.do("fill", "Search", "nothing like that")
	desk.do("waitText", "Nothing found")
	desk.do("fill", "Search", "")
	desk.do("openChat", "Amélie Laurent")
	desk.do("offline", true)
	desk.do("waitState", "offline")
	desk.do("send", "Are you coming at all?")
	desk.do("waitPending", 1)
	desk.do("waitText", "Offline. What you write is kept")
	shot(desk, "desktop-offline")
	desk.do("offline", false)
	desk.do("waitLast", "Are you coming at all?")
	grace := c.people["sam"]
	grace.call(nil, grace.client.Block(t.Context(), "alice"))
	desk.do("openChat", "Sam O’Neill")
	desk.do("send", "Hello?")
	desk.do("waitText", "Not sent:")
	shot(desk, "desktop-refused")
	desk.do("clickName", "button", "Remove")
	desk.do("waitPending", 0)
	desk.sane()
	desk.do("close")

	dark := b.open("dark", look{URL: url, Width: 1000, Height: 640, Dark: true})
	c.signIn(dark, "alice")
	dark.do("openChat", "Amélie Laurent")
	dark.do("waitLast", "Are you coming at all?")
	shot(dark, "desktop-chat-dark")
	dark.do("openChat", "Harbour team")
	dark.do("waitText", "can you book the boat")
	shot(dark, "desktop-group-dark")
	dark.do("clickName", "button", "Settings and profile")
	dark.do("waitText", "This one")
	shot(dark, "desktop-settings-dark")
	dark.sane()
	dark.do("close")

	for _, p := range []struct {
		name string
		look look
	}{
		{"phone", look{URL: url, Width: 390, Height: 844, Touch: true}},
		{"phone-dark", look{URL: url, Width: 390, Height: 844, Touch: true, Dark: true}},
		{"zoomed", look{URL: url, Width: 600, Height: 380}}, // a desktop at 200 %
		{"phone-small", look{URL: url, Width: 320, Height: 568, Touch: true}},
	} {
		phone := b.open(p.name, p.look)
		shot(phone, p.name+"-sign-in")
		c.signIn(phone, "alice")
		phone.do("waitText", "Harbour team")
		phone.do("waitText", "健二")
		shot(phone, p.name+"-list")
		phone.do("openChat", "Harbour team")
		phone.do("waitText", "can you book the boat")
		shot(phone, p.name+"-group")
		phone.do("click", "header.row .head")
		phone.do("waitText", "Leave the group")
		phone.do("waitText", "owner")
		shot(phone, p.name+"-group-info")
		phone.do("clickName", "button", "Close")
		phone.do("clickName", "button", "Back to the chats")
		phone.do("openChat", "Bartholomäus")
		phone.do("waitText", "Donaudampf")
		shot(phone, p.name+"-long")
		phone.do("clickName", "button", "Back to the chats")
		phone.do("clickName", "button", "Settings and profile")
		phone.do("waitText", "This one")
		shot(phone, p.name+"-settings")
		phone.sane()
		phone.do("close")
	}

	chinese := b.open("chinese", look{URL: url, Width: 1000, Height: 640, Locale: "zh-CN"})
	chinese.do("waitText", "用户名")
	shot(chinese, "desktop-sign-in-chinese")
	chinese.do("signInChinese", "alice", "password of alice")
	chinese.do("click", "button.line:has-text('王小明')")
	chinese.do("waitText", "明天下午三点开会")
	shot(chinese, "desktop-chinese")
	chinese.sane()
}

// fewColours makes a picture small: of at most 256 colours, those it has most of.
func fewColours(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pic, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	// Colours that the eye can't tell apart count as one.
	much := map[color.RGBA]int{}
	area := pic.Bounds()
	rough := func(x, y int) color.RGBA {
		r, g, b, _ := pic.At(x, y).RGBA()
		return color.RGBA{uint8(r>>8) &^ 3, uint8(g>>8) &^ 3, uint8(b>>8) &^ 3, 255}
	}
	exact := map[color.RGBA]color.Color{}
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			c := rough(x, y)
			much[c]++
			if exact[c] == nil {
				exact[c] = pic.At(x, y)
			}
		}
	}
	most := slices.SortedFunc(maps.Keys(much), func(a, b color.RGBA) int { return much[b] - much[a] })
	palette := color.Palette{}
	for _, c := range most[:min(len(most), 256)] {
		palette = append(palette, exact[c])
	}
	near := map[color.RGBA]uint8{}
	small := image.NewPaletted(area, palette)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			c := rough(x, y)
			i, known := near[c]
			if !known {
				i = uint8(palette.Index(exact[c]))
				near[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
