// Rooms: transcripts of what a client says to a server, and what it tells the application.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code, directConversation, GoChatError, Moderation, roomConversation } from "../src/index.js";
import { fromHex, random } from "../src/ids.js";
import { FrameType } from "../src/wire/frame.js";
import { encode, type Init } from "../src/wire/proto.js";
import { Broadcast, methods, RoomNews, Signal, type Room } from "../src/wire/wire.gen.js";
import { actor, type Actor } from "./actor.js";
import { message, type Peer } from "./fake.js";

const room = roomConversation("lobby");
const to = { conversation: room };

/** What was told of rooms, in a word each. */
const told = (a: Actor): string[] =>
  a.events.flatMap((e) => {
    switch (e.type) {
      case "message": return [e.data.own ? `${e.data.text}!` : e.data.text];
      case "leftOut": return [`-${e.data.count}<=${e.data.upTo}`];
      case "room": return [`count ${e.data.count}`];
      case "roomLeft": return [`left ${e.data.error instanceof GoChatError ? e.data.error.name : e.data.error}`];
      default: return [];
    }
  });

const saw = async (a: Actor, ...want: string[]) => {
  await a.until(() => told(a).length >= want.length);
  assert.deepEqual(told(a), want);
};

/** Answers the next ROOM_JOIN. */
const enters = async (p: Peer, answer: Init<Room> = {}) => {
  const { f, q } = await p.request(methods.roomJoin);
  assert.deepEqual(q.conversationId, fromHex(room));
  p.answer(f, methods.roomJoin, { conversationId: fromHex(room), name: "lobby", count: 1, ...answer });
};

const news = (p: Peer, n: Init<RoomNews>) => p.send(FrameType.Signal, Signal, { conversationId: fromHex(room), kind: 7, data: encode(RoomNews, n) });

/** A client that has entered the room, whose last message was the fifth. */
async function inside(more = {}): Promise<{ a: Actor; p: Peer }> {
  const a = await actor(more);
  const p = await a.fake.peer();
  await p.welcome();
  const joined = a.client.joinRoom(room);
  await enters(p, { lastSeq: 5n });
  await joined;
  await saw(a, "count 1");
  return { a, p };
}

test("what is said comes as it comes, what doesn't is counted, and nothing is pulled, stored or listed", async () => {
  const { a, p } = await inside();
  p.live(room, message(5n, "before"), message(6n, "6"), message(7n, "7"));
  p.live(room, message(7n, "twice"), message(11n, "11"));
  await saw(a, "count 1", "6", "7", "-3<=10", "11");
  news(p, { lastSeq: 14n, leftOut: 3n }); // nothing was said since
  news(p, { lastSeq: 14n, count: 3, joined: ["bob", "carol"], joinedCount: 2 });
  await saw(a, "count 1", "6", "7", "-3<=10", "11", "-3<=14", "count 3");
  assert.deepEqual(a.events.at(-1)!.data, { conversation: room, count: 3, joined: ["bob", "carol"], left: [], joinedCount: 2, leftCount: 0, lastSeq: 14n });
  assert.deepEqual([a.client.rooms, a.client.conversations.all(), a.client.conversations.get(room), await a.client.cached(room)], [[room], [], undefined, []]);
  const direct = directConversation("me", "you");
  p.deliver(direct, message(1n, "hi"));
  await p.untilAcked(direct, 1n);
  assert.deepEqual([...p.acked.keys()], [direct]);
  void a.client.devices().catch(() => {}); // the next frame: no SYNC came before
  await p.request(methods.devices);
});

test("what comes before the answer waits for it", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const joined = a.client.joinRoom(room);
  const { f } = await p.request(methods.roomJoin);
  p.live(room, message(4n, "before"), message(5n, "before"));
  p.live(room, message(6n, "6"), message(8n, "8"));
  news(p, { count: 9 });
  p.answer(f, methods.roomJoin, { conversationId: fromHex(room), name: "lobby", lastSeq: 5n, count: 2, role: 2, mutedUntil: 9n, slowSeconds: 3 });
  const r = await joined;
  assert.deepEqual([r.conversation, r.name, r.lastSeq, r.moderator, r.mutedUntil, r.slowSeconds], [room, "lobby", 5n, true, 9, 3]);
  await saw(a, "count 2", "6", "-1<=7", "8");
});

test("own messages come with their acks, in whatever order, and aren't missed", async () => {
  const { a, p } = await inside();
  for (const text of ["a", "b", "c"]) await a.client.send(to, text);
  const sent = [await p.sendFrame(), await p.sendFrame(), await p.sendFrame()];
  p.ack(sent[0]!.f, 6n);
  p.live(room, message(7n, "7"), message(9n, "9")); // the ack of 8 is late: it isn't told as left out
  p.ack(sent[1]!.f, 8n);
  p.ack(sent[2]!.f, 12n); // 10 and 11 are on their way
  p.live(room, message(10n, "10"), message(13n, "13"));
  await saw(a, "count 1", "a!", "7", "9", "b!", "c!", "10", "-1<=12", "13");
});

test("a gap is told as soon as no own message explains it", async () => {
  const { a, p } = await inside();
  const refused = await a.client.send(to, "no");
  const stored = await a.client.send(to, "yes");
  const [one, two] = [await p.sendFrame(), await p.sendFrame()];
  p.live(room, message(8n, "8")); // 6 and 7 may be these
  p.refuse(one.f, Code.Muted, 1000);
  await assert.rejects(refused.stored, { name: "muted" });
  p.ack(two.f, 7n);
  await stored.stored;
  await saw(a, "count 1", "8", "-1<=8", "yes!");
});

test("after a lost connection the client enters again, and counts what was said meanwhile", async () => {
  const { a, p: first } = await inside();
  first.live(room, message(6n, "6"));
  await saw(a, "count 1", "6");
  first.cut();
  let p = await a.fake.peer();
  await p.welcome();
  const refused = await p.request(methods.roomJoin);
  p.refuse(refused.f, Code.Unavailable, 1);
  await enters(p, { lastSeq: 9n, count: 4 }); // after a moment
  p.live(room, message(10n, "10"));
  await saw(a, "count 1", "6", "-3<=9", "count 4", "10");
  // It is gone: that is told, and not tried again.
  p.cut();
  p = await a.fake.peer();
  await p.welcome();
  p.refuse((await p.request(methods.roomJoin)).f, Code.NoSuchConversation);
  await saw(a, "count 1", "6", "-3<=9", "count 4", "10", "left no_such_conversation");
  assert.deepEqual(a.client.rooms, []);
});

test("the store was restored: the room goes on from where it is then", async () => {
  const { a, p: first } = await inside();
  first.cut();
  const p = await a.fake.peer();
  await p.welcome({ storeEpoch: 2n });
  await enters(p, { lastSeq: 2n });
  p.live(room, message(3n, "3"));
  await saw(a, "count 1", "count 1", "3");
});

test("leaving, being put out, and coming back", async () => {
  const { a, p } = await inside();
  const left = a.client.leaveRoom(room);
  assert.deepEqual(a.client.rooms, []);
  p.live(room, message(6n, "on its way"));
  p.answer((await p.request(methods.roomLeave)).f, methods.roomLeave, {});
  await left;
  const joined = a.client.joinRoom(room);
  await enters(p, { lastSeq: 8n });
  await joined;
  news(p, { code: Code.BannedHere });
  p.live(room, message(9n, "to nobody"));
  const refused = a.client.joinRoom(room);
  p.refuse((await p.request(methods.roomJoin)).f, Code.BannedHere);
  await assert.rejects(refused, { name: "banned_here" });
  await saw(a, "count 1", "left undefined", "count 1", "left banned_here");
  assert.deepEqual(a.client.rooms, []);
});

test("who gives up waiting for the answer is out, whatever it would have been", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const stop = new AbortController();
  const joining = a.client.joinRoom(room, { signal: stop.signal });
  const { f } = await p.request(methods.roomJoin);
  stop.abort(new Error("enough"));
  await assert.rejects(joining, /enough/);
  p.answer(f, methods.roomJoin, { conversationId: fromHex(room), lastSeq: 1n });
  await p.request(methods.roomLeave);
  p.live(room, message(2n, "to nobody"));
  assert.deepEqual([told(a), a.client.rooms], [[], []]);
});

test("a slow application: what it has no time for is counted, all of it", async () => {
  const { a, p } = await inside({ queue: 4 });
  let release!: () => void;
  const held = new Promise<void>((resolve) => (release = resolve));
  a.client.on("message", () => held);
  p.live(room, ...Array.from({ length: 20 }, (_, i) => message(BigInt(i + 6), String(i + 6))));
  await a.until(() => a.texts().length > 0);
  release();
  const had = () => a.texts().length + a.events.reduce((n, e) => n + (e.type === "leftOut" ? e.data.count : 0), 0);
  await a.until(() => had() === 20);
  assert.ok(a.texts().length < 20);
});

test("everything that is said is told, or counted, whatever is lost on the way", async () => {
  const seed = Number(process.env.SEED ?? random(1)[0]);
  console.log(`seed ${seed}`);
  let state = seed + 1;
  const chance = (n: number) => (state = (state * 48271) % 0x7fffffff) % n;
  let { a, p } = await inside();
  let head = 5n; // of the room
  let acks: (() => void)[] = [];
  for (let step = 0; step < 300; step++) {
    const what = chance(20);
    if (what === 0) {
      p.cut();
      p = await a.fake.peer();
      await p.welcome();
      await enters(p, { lastSeq: (head += BigInt(chance(3))) });
      acks = [];
      for (let n = (await a.client.outbox()).length; n > 0; n--) {
        const { f } = await p.sendFrame();
        p.ack(f, ++head);
      }
    } else if (what < 4) {
      await a.client.send(to, "own");
      const { f } = await p.sendFrame();
      const seq = ++head;
      acks.push(() => p.ack(f, seq));
    } else if (what < 8) for (const ack of acks.splice(0)) ack();
    else if (what < 11) head += BigInt(chance(4)); // left out
    else if (what < 12) news(p, { lastSeq: head });
    else p.live(room, message(++head, "said"));
  }
  for (const ack of acks) ack();
  p.live(room, message(++head, "the end"));
  const sum = () => a.events.reduce((n, e) => n + (e.type === "message" ? 1n : e.type === "leftOut" ? BigInt(e.data.count) : 0n), 0n);
  await a.until(() => a.texts().includes("the end") && sum() >= head - 5n);
  assert.equal(sum(), head - 5n);
  const seqs = a.events.flatMap((e) => (e.type === "message" ? [e.data.seq] : []));
  assert.equal(new Set(seqs).size, seqs.length);
});

test("calls about rooms, and announcements", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const answer: Init<Room> = { conversationId: fromHex(room), name: "lobby", title: "T", moderators: ["me"], createdBy: "me", createdTime: 7n };
  const calls: Promise<unknown>[] = [];
  calls.push(a.client.createRoom({ name: "lobby", title: "T", slowSeconds: 5 }));
  const asked = await p.request(methods.roomCreate);
  assert.deepEqual(asked.q, { name: "lobby", title: "T", slowSeconds: 5 });
  p.answer(asked.f, methods.roomCreate, answer);
  calls.push(a.client.room(room));
  p.answer((await p.request(methods.room)).f, methods.room, answer);
  calls.push(a.client.updateRoom(room, { title: "" }));
  const update = await p.request(methods.roomUpdate);
  assert.deepEqual([update.q.fields, update.q.title], [1, ""]);
  p.answer(update.f, methods.roomUpdate, answer);
  calls.push(a.client.moderate(room, "bob", Moderation.Mute, 60));
  const moderate = await p.request(methods.roomModerate);
  assert.deepEqual([moderate.q.userId, moderate.q.action, moderate.q.seconds], ["bob", 1, 60]);
  p.answer(moderate.f, methods.roomModerate, answer);
  for (const r of await Promise.all(calls)) assert.deepEqual(r, {
    conversation: room, name: "lobby", title: "T", count: 0, slowSeconds: 0, firstSeq: 0n, lastSeq: 0n, moderator: false, mutedUntil: 0, moderators: ["me"], createdBy: "me", created: 7,
  });
  const page = a.client.roomMembers(room, "a", 2);
  const members = await p.request(methods.roomMembers);
  assert.deepEqual([members.q.cursor, members.q.limit], ["a", 2]);
  p.answer(members.f, methods.roomMembers, { userIds: ["b", "c"], cursor: "c", count: 9 });
  assert.deepEqual(await page, { users: ["b", "c"], cursor: "c", count: 9 });
  await assert.rejects(a.client.joinRoom("lobby"), { name: "bad_request" });

  p.send(FrameType.Signal, Signal, { toUserId: "gochat:system", senderId: "gochat:system", kind: 8, data: encode(Broadcast, { id: "1", title: "Soon", text: "Maintenance", time: 9n }) });
  await a.until(() => a.events.some((e) => e.type === "announcement"));
  assert.deepEqual(a.events.at(-1)!.data, { id: "1", title: "Soon", text: "Maintenance", ext: new Uint8Array(0), time: 9 });
});
