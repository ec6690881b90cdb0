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
