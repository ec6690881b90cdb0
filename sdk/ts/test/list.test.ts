import assert from "node:assert/strict";
import { test } from "node:test";

import { ConversationList, directConversation, groupConversation, type Conversation, type Message } from "../src/index.js";
import { unknownConversation } from "../src/list.js";

const [bob, carol] = ["bob", "carol"].map((u) => directConversation("me", u)) as [string, string];
const team = groupConversation("team");

const message = (conversation: string, seq: bigint, more: Partial<Message> = {}): { type: "message"; data: Message } => ({
  type: "message", data: { conversation, peer: "", seq, id: "1", sender: "x", clientMsgId: "", own: false, time: Number(seq) * 1000, type: 1, text: `m${seq}`, ...more },
});
const state = (id: string, more: Partial<Conversation>): { type: "conversation"; data: Conversation } => ({ type: "conversation", data: { ...unknownConversation(id), ...more } });
const cursors = (readSeq: bigint, lastSeq: bigint, unread: number, own = true) =>
  ({ type: "cursors", data: { conversation: bob, user: own ? "me" : "bob", own, readSeq, recvSeq: readSeq, lastSeq, unread, mentions: 0 } }) as const;

function list(): ConversationList {
  const l = new ConversationList();
  l.apply({ type: "connected", data: { user: "me", server: "", resumed: false } });
  return l;
}

test("unread: the server's count, and what came since", () => {
  const l = list();
  l.apply(state(bob, { lastSeq: 4n, readSeq: 2n, unread: 2, users: ["bob", "me"], peer: "bob", lastTime: 4000 }));
  l.apply(message(bob, 4n)); // counted already
  l.apply(message(bob, 5n));
  l.apply(message(bob, 5n)); // a repeat
  l.apply(message(bob, 6n, { own: true }));
  l.apply(message(bob, 7n, { noCount: true }));
  l.apply(message(bob, 8n, { mentions: ["me"] }));
  assert.deepEqual([l.get(bob)!.unread, l.get(bob)!.mentions, l.get(bob)!.preview, l.unread], [4, 1, "m8", 4]);
  l.apply(cursors(5n, 7n, 0)); // read on another device, counted up to 7: 8 came since
  assert.equal(l.get(bob)!.unread, 1);
  l.apply(cursors(3n, 9n, 5)); // late
  assert.equal(l.get(bob)!.unread, 1);
  l.apply(cursors(6n, 0n, 0, false));
  assert.equal(l.get(bob)!.peerReadSeq, 6n);
  for (let n = 9n; n < 200n; n++) l.apply(message(bob, n));
  assert.equal(l.get(bob)!.unread, 100);
});

test("order, pins, hiding, leaving; a late state takes nothing back", () => {
  const l = list();
  l.apply(message(bob, 1n, { peer: "bob" }));
  l.apply(message(carol, 2n, { peer: "carol" }));
  l.apply(message(team, 3n, { type: 64, text: `{"do":"create","users":["me"],"count":1}` }));
  const ids = () => l.all().map((c) => c.id);
  assert.deepEqual(ids(), [team, carol, bob]);
  assert.equal(l.get(team)!.previewType, 0); // changes of a group leave the preview as it is
  l.apply(state(bob, { lastSeq: 1n, pinned: true, settingsVersion: 1n }));
  assert.deepEqual(ids(), [bob, team, carol]);
  l.apply(state(bob, { lastSeq: 1n })); // overtaken
  assert.deepEqual(ids(), [bob, team, carol]);
  l.apply(state(carol, { lastSeq: 2n, hidden: true, settingsVersion: 1n, users: ["carol", "me"], peer: "carol" }));
  assert.deepEqual(ids(), [bob, team]);
  l.apply(message(carol, 3n));
  assert.deepEqual(ids().includes(carol), true);
  l.apply(message(team, 4n, { type: 65, text: `{"name":"Lunch"}` }));
  assert.equal(l.get(team)!.name, "Lunch");
  l.apply(message(team, 5n, { type: 64, text: `{"do":"remove","users":["me"],"count":1}` }));
  assert.deepEqual(ids().includes(team), false);
  l.apply(message(team, 9n, { type: 64, text: `{"do":"add","users":["me"],"count":1}` }));
  assert.deepEqual(ids().includes(team), true);
  l.apply(message(team, 10n, { type: 64, text: `{"do":7,"users":7}` })); // nonsense harms nobody

  const copy = new ConversationList();
  const watched: string[] = [];
  copy.watch((c) => watched.push(c));
  copy.restore(l.snapshot());
  assert.deepEqual(copy.all(), l.all());
  assert.deepEqual(watched, [""]);
  l.apply({ type: "resynced", data: { storeEpoch: "2" } });
  assert.deepEqual(l.all(), []);
});

test("roles follow what messages tell, unless they are older than what the server told", () => {
  const l = list();
  l.apply(state(team, { lastSeq: 2n, role: 3 }));
  const tell = (seq: bigint, sender: string, text: object) => l.apply(message(team, seq, { type: 64, sender, own: sender === "me", text: JSON.stringify({ count: 1, ...text }) }));
  const role = (user: string, role: string) => ({ do: "role", users: [user], role });
  for (const [seq, sender, text, want] of [
    [2n, "bob", role("me", "member"), 3], // before that
    [3n, "me", role("bob", "admin"), 3],
    [4n, "me", role("bob", "owner"), 2],
    [5n, "bob", role("me", "member"), 1],
    [6n, "bob", role("me", "king"), 0],
    [7n, "bob", role("me", "owner"), 3],
    [8n, "me", { do: "leave", users: ["me"] }, 0],
  ] as const) {
    tell(seq, sender, text);
    assert.equal(l.get(team)!.role, want, `after ${seq}`);
  }
  // Out and back again while away: the server has told how it ended before the messages come.
  l.apply(state(team, { lastSeq: 12n, role: 1 }));
  for (const [seq, what, want] of [[10n, "remove", 1], [12n, "add", 1], [13n, "remove", 0], [17n, "add", 1]] as const) {
    tell(seq, "bob", { do: what, users: ["me"] });
    assert.deepEqual([l.get(team)!.role, l.get(team)!.leftSeq], [want, want === 0 ? seq : 0n], `after ${seq}`);
  }
});

test("a state that a message overtook takes back nothing that the message told, over restarts too", () => {
  let l = list();
  const old = (lastSeq: bigint) => state(team, { lastSeq, name: "old", avatar: "old", nickname: "old", role: 2, preview: "old" });
  const told = (seq: bigint, sender: string, type: number, text: string) => message(team, seq, { sender, own: sender === "me", type, text });
  for (const [i, [event, want]] of ([
    [old(2n), "old old old 2 old"],
    [told(2n, "me", 66, `{"nickname":"Me"}`), "old old old 2 old"], // before that
    [told(3n, "me", 66, `{"nickname":"Me"}`), "old old Me 2 old"],
    [told(4n, "bob", 66, `{"nickname":"B"}`), "old old Me 2 old"],
    [told(5n, "bob", 65, `{"name":"new"}`), "new old Me 2 old"],
    [told(6n, "bob", 65, `{"avatar":"new"}`), "new new Me 2 old"],
    [told(7n, "bob", 64, `{"do":"role","users":["me"],"count":1,"role":"member"}`), "new new Me 1 old"],
    [told(8n, "bob", 1, "hello"), "new new Me 1 hello"],
    [old(2n), "new new Me 1 hello"],
    [old(4n), "new new old 1 hello"],
    [old(5n), "old new old 1 hello"],
    [old(7n), "old old old 2 hello"],
    [old(8n), "old old old 2 old"],
    [told(9n, "me", 66, `{"nickname":""}`), "old old  2 old"],
  ] as const).entries()) {
    l.apply(event);
    const c = l.get(team)!;
    assert.equal(`${c.name} ${c.avatar} ${c.nickname} ${c.role} ${c.preview}`, want, `step ${i}`);
    const next = list();
    next.restore(l.snapshot());
    l = next;
  }
  l.restore(l.snapshot().map(({ told: _, ...s }) => s)); // as stored before that was kept
  l.apply(old(9n));
  assert.equal(l.get(team)!.nickname, "old");
});

test("a state that a change of the group overtook tells the preview", () => {
  const l = list();
  l.apply(message(team, 2n, { type: 64, text: `{"do":"add","users":["me"],"count":1}` }));
  l.apply(state(team, { lastSeq: 1n, preview: "m1" }));
  assert.deepEqual([l.get(team)!.preview, l.get(team)!.lastSeq], ["m1", 2n]);
});
