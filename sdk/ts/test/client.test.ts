// Transcripts: what a client says to a server, and what it tells the application.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Code, directConversation, groupConversation, GoChatError, MemoryStore, StoppedError } from "../src/index.js";
import { Cursors, Drain, Error as ErrorBody, Hint, Kick, methods, Signal } from "../src/wire/wire.gen.js";
import { encodeChunk } from "../src/draft.js";
import { fromHex, fromUuid, toUuid, uuidTime } from "../src/ids.js";
import { encodeFrame, FrameType } from "../src/wire/frame.js";
import { encode, utf8 } from "../src/wire/proto.js";
import { actor, clients } from "./actor.js";
import { Fake, message, type Peer } from "./fake.js";

const conv = directConversation("me", "you");

test("messages come once and in order, holes are pulled, RECVACK tells what was had", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  p.deliver(conv, message(1n, "1"));
  p.deliver(conv, message(1n, "1"), message(2n, "2"));
  p.deliver(conv, message(5n, "5"), message(6n, "6"));
  await a.until(() => a.texts().length === 2);
  await p.untilAcked(conv, 2n);
  const { f, ranges } = await p.sync();
  assert.deepEqual([ranges[0]!.fromSeq, ranges[0]!.toSeq], [3n, 4n]);
  p.synced(f, conv, { fromSeq: 3n, toSeq: 4n, firstSeq: 1n, lastSeq: 6n, messages: [message(4n, "4")] }); // 3 will never come
  await a.until(() => a.texts().length === 5);
  assert.deepEqual(a.texts(), ["1", "2", "4", "5", "6"]);
  await p.untilAcked(conv, 6n);
  assert.equal(a.client.conversations.get(conv)!.unread, 5);
  assert.equal(a.client.conversations.all()[0]!.peer, "you");
});

test("a message is sent again under its id, in order, after the connection was lost", async () => {
  const a = await actor();
  const receipts = [await a.client.send({ user: "you" }, "one"), await a.client.send({ user: "you" }, "two")];
  let p = await a.fake.peer();
  await p.welcome();
  const first = await p.sendFrame();
  const second = await p.sendFrame();
  assert.deepEqual([first.s.content, second.s.content, first.resend], ["one", "two", false]);
  assert.deepEqual(receipts.map((r) => r.id), [first, second].map((x) => toUuid(x.s.clientMsgId)));
  p.ack(first.f, 1n, { conversationId: fromHex(conv) });
  assert.equal((await receipts[0]!.stored).seq, 1n);
  p.cut();
  p = await a.fake.peer();
  const hello = await p.welcome();
  assert.equal(hello.resumeToken, "resume");
  assert.equal(hello.syncMark, 5n);
  const again = await p.sendFrame();
  assert.equal(again.resend, true);
  assert.deepEqual(again.s, second.s);
  p.ack(again.f, 2n, { duplicate: true, conversationId: fromHex(conv) });
  assert.deepEqual(await receipts[1]!.stored, { conversation: conv, seq: 2n, messageId: (2n << 22n).toString(), duplicate: true });
  await a.until(() => a.texts().length === 2);
  assert.deepEqual(a.texts(), ["one", "two"]);
  assert.deepEqual(await a.client.outbox(), []);
});

test("a refused lane goes again from the refused message on, all with the resend flag", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  for (const t of ["1", "2", "3"]) await a.client.send({ conversation: conv }, t);
  const sent = [await p.sendFrame(), await p.sendFrame(), await p.sendFrame()];
  p.ack(sent[0]!.f, 1n);
  p.refuse(sent[1]!.f, Code.Overloaded, 1);
  p.refuse(sent[2]!.f, Code.LaneBlocked, 1);
  const again = [await p.sendFrame(), await p.sendFrame()];
  assert.deepEqual(again.map((x) => [x.s.content, x.resend]), [["2", true], ["3", true]]);
  again.forEach((x, i) => p.ack(x.f, BigInt(i + 2)));
  await a.until(() => a.texts().length === 3);
});

test("refusals: for good, an id ahead of the server, an id that is unknown", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const r = await a.client.send({ conversation: conv }, "no");
  p.refuse((await p.sendFrame()).f, Code.Forbidden);
  await assert.rejects(r.stored, (e) => e instanceof GoChatError && e.name === "forbidden" && !e.retryable);
  await a.until(() => a.events.some((e) => e.type === "failed" && e.data.id === r.id));

  const ahead = await a.client.send({ conversation: conv }, "ahead");
  const one = await p.sendFrame();
  p.refuse(one.f, Code.IdInFuture);
  const two = await p.sendFrame();
  assert.equal(two.resend, false);
  assert.notDeepEqual(two.s.clientMsgId, one.s.clientMsgId);
  assert.equal(two.s.content, "ahead");
  // The server doesn't know this id any more: the timeline is looked through, and holds it.
  p.refuse(two.f, Code.IdUnknown);
  const { f, ranges } = await p.sync();
  assert.equal(ranges[0]!.fromSeq, 1n);
  p.synced(f, conv, { fromSeq: 1n, toSeq: 1n, firstSeq: 1n, lastSeq: 1n, messages: [{ ...message(1n, "ahead", "me"), clientMsgId: two.s.clientMsgId }] });
  assert.equal((await ahead.stored).seq, 1n);

  const gone = await a.client.send({ conversation: conv }, "gone");
  const three = await p.sendFrame();
  p.refuse(three.f, Code.IdUnknown);
  const search = await p.sync();
  p.synced(search.f, conv, { fromSeq: 2n, toSeq: 1n, firstSeq: 1n, lastSeq: 1n });
  const four = await p.sendFrame();
  assert.notDeepEqual(four.s.clientMsgId, three.s.clientMsgId);
  p.ack(four.f, 2n);
  assert.equal((await gone.stored).seq, 2n);
});

test("ids are on server time, and grow", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  const ahead = Date.now() + 1e9;
  await p.welcome({ serverTime: BigInt(ahead) });
  await a.client.connected();
  let before = "";
  for (let i = 0; i < 100; i++) {
    const { id } = await a.client.send({ conversation: conv }, "x");
    assert.ok(id > before);
    before = id;
  }
  assert.ok(Math.abs(uuidTime(fromUuid(before)) - ahead) < 30_000);
});

test("what is wrong isn't sent", async () => {
  const a = await actor();
  for (const [to, content, name] of [
    [{ user: "" }, "x", "bad_request"], [{ conversation: "zz" }, "x", "bad_request"], [{ user: "you" }, "", "bad_request"], [{ user: "you" }, "\ud800", "invalid_utf8"],
    [{ user: "you" }, { type: 64, text: "x" }, "bad_request"], [{ user: "you" }, "x".repeat(70_000), "content_too_large"],
  ] as const) {
    await assert.rejects(a.client.send(to, content), (e) => e instanceof GoChatError && e.name === name);
  }
  assert.deepEqual(await a.client.outbox(), []);
});

test("a client goes on from its store: outbox, cursors, list, cache", async () => {
  const store = new MemoryStore();
  const a = await actor({ store });
  let p = await a.fake.peer();
  await p.welcome();
  p.deliver(conv, message(1n, "1"), message(2n, "2"));
  await a.until(() => a.texts().length === 2);
  await a.client.send({ user: "you" }, "left");
  const { s } = await p.sendFrame();
  await a.client.close();

  const b = await actor({ store });
  assert.equal(b.client.user, "me");
  assert.equal(b.client.conversations.get(conv)!.unread, 2);
  assert.deepEqual((await b.client.cached(conv)).map((m) => m.text), ["1", "2"]);
  p = await b.fake.peer();
  const hello = await p.welcome({ conversations: [{ conversationId: fromHex(conv), users: ["me", "you"], lastSeq: 3n, firstSeq: 1n, unread: 3 }] });
  assert.deepEqual([hello.syncMark, hello.storeEpoch, hello.resumeToken], [5n, 1n, "resume"]);
  const again = await p.sendFrame();
  assert.deepEqual([again.resend, again.s], [true, s]);
  const { f, ranges } = await p.sync();
  assert.equal(ranges[0]!.fromSeq, 3n);
  p.synced(f, conv, { fromSeq: 3n, toSeq: 3n, firstSeq: 1n, lastSeq: 3n, messages: [message(3n, "3")] });
  await b.until(() => b.texts().length === 1);
  assert.deepEqual(b.texts(), ["3"]);
  assert.equal(b.client.conversations.get(conv)!.unread, 3);
});

test("another epoch: everything comes again", async () => {
  const store = new MemoryStore();
  const a = await actor({ store });
  let p = await a.fake.peer();
  await p.welcome();
  p.deliver(conv, message(1n, "old"));
  await a.until(() => a.texts().length === 1);
  p.cut();
  p = await a.fake.peer();
  await p.welcome({ storeEpoch: 2n });
  p.deliver(conv, message(1n, "new"));
  await a.until(() => a.texts().length === 2);
  assert.ok(a.events.some((e) => e.type === "resynced"));
  await a.client.close();
  assert.deepEqual((await store.messages(conv, 0n, 10)).map((m) => m.text), ["new"]);
});

test("a slow application: messages wait at the server, and come in order", async () => {
  const fake = new Fake();
  const client = await Client.open({ url: "fake", token: "t", device: "d", transport: fake.transport, queue: 4, gapWaitMs: 1, backlog: Infinity });
  clients.push(client);
  const got: string[] = [];
  let release!: () => void;
  const held = new Promise<void>((resolve) => (release = resolve));
  let all!: () => void;
  const done = new Promise<void>((resolve) => (all = resolve));
  client.on("message", async (m) => {
    await held;
    got.push(m.text);
    if (got.length === 12) all();
  });
  client.start();
  const p = await fake.peer();
  await p.welcome();
  p.deliver(conv, ...Array.from({ length: 12 }, (_, i) => message(BigInt(i + 1), String(i + 1))));
  release();
  serveSyncs(p, 12).catch(() => {}); // until the client closes
  await done;
  assert.deepEqual(got, Array.from({ length: 12 }, (_, i) => String(i + 1)));
});

async function serveSyncs(p: Peer, last: number): Promise<void> {
  for (;;) {
    const { f, ranges } = await p.sync();
    const from = Number(ranges[0]!.fromSeq);
    const messages = [];
    for (let i = from; i <= last; i++) messages.push(message(BigInt(i), String(i)));
    p.synced(f, conv, { fromSeq: BigInt(from), toSeq: BigInt(last), firstSeq: 1n, lastSeq: BigInt(last), messages });
  }
}

test("HINT: heads are pulled, and with all the inbox is read from the mark", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  p.send(FrameType.Hint, Hint, { all: true });
  const { f, q } = await p.request(methods.conversations);
  assert.equal(q.syncMark, 5n);
  p.answer(f, methods.conversations, { conversations: [{ conversationId: fromHex(conv), users: ["me", "you"], lastSeq: 1n }], syncMark: 9n });
  const sync = await p.sync();
  p.synced(sync.f, conv, { fromSeq: 1n, toSeq: 1n, firstSeq: 1n, lastSeq: 1n, messages: [message(1n, "hi")] });
  await a.until(() => a.texts().length === 1);
});

test("a token that expired is asked for again; a device that is signed out stops, and forgets its resume token", async () => {
  const hints: boolean[] = [];
  const store = new MemoryStore();
  const a = await actor({ store, token: ({ expired }) => (hints.push(expired), "token") });
  let p = await a.fake.peer();
  p.refuse(undefined, Code.TokenExpired);
  p = await a.fake.peer();
  await p.welcome();
  assert.deepEqual(hints, [false, true]);
  p.send(FrameType.Kick, Kick, { code: Code.SessionRevoked });
  await a.until(() => a.events.some((e) => e.type === "stopped"));
  assert.equal(a.client.state, "stopped");
  await assert.rejects(a.client.send({ user: "you" }, "x"), StoppedError);
  await assert.rejects(a.client.devices(), StoppedError);
  await a.client.close();
  assert.equal((await store.load()).session.resumeToken, "");
});

test("calls are asked again after the connection was lost, and end by their signal", async () => {
  const a = await actor();
  let p = await a.fake.peer();
  await p.welcome();
  const profiles = a.client.profiles(["you"]);
  await p.request(methods.profiles);
  p.cut();
  p = await a.fake.peer();
  await p.welcome();
  const { f } = await p.request(methods.profiles);
  p.answer(f, methods.profiles, { profiles: [{ userId: "you", name: "You", version: 3n }], answered: 1 });
  assert.equal((await profiles).get("you")!.name, "You");
  const stop = new AbortController();
  const slow = a.client.devices({ signal: stop.signal });
  stop.abort(new Error("enough"));
  await assert.rejects(slow, /enough/);
});

test("DRAIN with alternatives: the session moves before the old one is left, nothing is lost", async () => {
  const a = await actor();
  const old = await a.fake.peer();
  await old.welcome();
  await a.client.connected();
  old.send(FrameType.Drain, Drain, { deadlineMs: 1000, jitterMs: 1, alternatives: ["other:7070"] });
  const p = await a.fake.peer();
  assert.deepEqual(a.fake.addresses, ["fake", "other:7070"]);
  assert.equal(old.closed, false);
  await p.welcome();
  p.deliver(conv, message(1n, "there"));
  await a.until(() => a.texts().length === 1);
  assert.equal(old.closed, true);
  assert.equal(a.events.some((e) => e.type === "disconnected"), false);
});

test("replaced by an attempt of its own, on which a server acted late, a client connects again; replaced once more it stops", async () => {
  const a = await actor({ dialTimeoutMs: 50 });
  const late = await a.fake.peer();
  await late.next(FrameType.Connect); // never answered
  for (let i = 1; i <= 2; i++) {
    const p = await a.fake.peer();
    await p.welcome();
    await a.until(() => a.events.filter((e) => e.type === "connected").length === i);
    assert.equal(a.events.some((e) => e.type === "stopped"), false);
    p.refuse(undefined, Code.Replaced);
  }
  await a.until(() => a.events.some((e) => e.type === "stopped"));
  await assert.rejects(a.client.connected(), StoppedError);
});

test("a server that is leaving and takes nobody names others: the client goes there at once, and goes on if they don't either", async () => {
  const a = await actor({ minBackoffMs: 1, maxBackoffMs: 2 });
  for (const [i, next] of ["second:1", "third:1"].entries()) {
    const p = await a.fake.peer();
    await p.next(FrameType.Connect);
    p.send(FrameType.Drain, Drain, { deadlineMs: 0, alternatives: [next] });
    p.refuse(undefined, Code.Draining, 3_600_000);
    if (i === 0) assert.deepEqual(a.fake.addresses, ["fake"]);
  }
  const p = await a.fake.peer();
  await p.welcome();
  await a.client.connected();
  assert.deepEqual(a.fake.addresses, ["fake", "second:1", "third:1"]);
});

test("what a server says before it closes counts, though the close comes first to whom it matters", async () => {
  const fake = new Fake();
  let tries = 0;
  const a = await actor({
    fake,
    transport: async (address, handler, signal) => {
      if (tries++ > 0) return fake.transport(address, handler, signal);
      fake.addresses.push(address);
      handler.data(encodeFrame(FrameType.Drain, encode(Drain, { alternatives: ["second:1"] }))); // before the client could say a word
      handler.data(encodeFrame(FrameType.Error, encode(ErrorBody, { code: Code.Draining, retryAfterMs: 3_600_000 })));
      handler.closed(new Error("closed"), 1012);
      return { send: () => {}, buffered: 0, close: () => {} };
    },
  });
  const p = await fake.peer();
  await p.welcome();
  await a.client.connected();
  assert.deepEqual(fake.addresses, ["fake", "second:1"]);
});

test("DRAIN without: what is under way is answered, then the client comes back", async () => {
  const a = await actor();
  const old = await a.fake.peer();
  await old.welcome();
  await a.client.connected();
  const r = await a.client.send({ conversation: conv }, "last");
  const { f } = await old.sendFrame();
  old.send(FrameType.Drain, Drain, { deadlineMs: 5000, jitterMs: 1 });
  await new Promise((resolve) => setImmediate(resolve));
  const next = await a.client.send({ conversation: conv }, "next");
  assert.equal(old.closed, false);
  old.ack(f, 1n);
  await r.stored;
  const p = await a.fake.peer();
  await p.welcome();
  const again = await p.sendFrame();
  assert.equal(again.resend, false);
  p.ack(again.f, 2n);
  assert.equal((await next.stored).seq, 2n);
});

test("signals: typing, drafts, cursors, profiles, an integrator's own", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const signal = (kind: number, data?: Uint8Array) => p.send(FrameType.Signal, Signal, { conversationId: fromHex(conv), kind, data, senderId: "you", senderDevice: "d" });
  const chunk = (draft: bigint, offset: bigint, t: string) => signal(4, encodeChunk({ draft, offset, text: utf8(t) }));
  signal(1);
  signal(1);
  chunk(7n, 0n, "he");
  chunk(7n, 9n, "beyond a hole");
  chunk(7n, 2n, "llo");
  signal(4, Uint8Array.of(0x80)); // can't be read
  signal(1000, Uint8Array.of(1));
  p.deliver(conv, message(1n, "hello"));
  await a.until(() => a.texts().length === 1);
  const told = a.events.flatMap((e): (string | number | boolean)[] => (e.type === "typing" ? [e.data.on] : e.type === "draft" ? [`${e.data.text}${e.data.done ? "." : ""}`] : e.type === "signal" ? [e.data.kind] : []));
  assert.deepEqual(told, [true, "he", "hello", 1000, false, "hello."]);

  const d = a.client.draft({ conversation: conv });
  d.write("é".repeat(3000));
  const sizes = [(await p.next(FrameType.Signal)).body.length, (await p.next(FrameType.Signal)).body.length];
  assert.ok(sizes.every((n) => n < 4096));
});

test("a group that isn't known is asked for", async () => {
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const group = groupConversation("team");
  p.deliver(group, { ...message(1n, `{"do":"create","users":["me"],"count":1}`), msgType: 64 });
  const { f, q } = await p.request(methods.conversation);
  assert.deepEqual(q.conversationId, fromHex(group));
  p.answer(f, methods.conversation, { conversationId: fromHex(group), lastSeq: 1n, name: "Team", role: 1, members: 2 });
  await a.until(() => a.client.conversations.get(group)?.name === "Team");
  assert.equal(a.client.conversations.get(group)!.unread, 0);
});

test("a conversation that was hidden when the device came is asked for once something is heard of it", async () => {
  const hidden = { conversationId: fromHex(conv), users: ["me", "you"], lastSeq: 2n, readSeq: 1n, unread: 1, muted: true, hidden: true, settingsVersion: 3n };
  const cursors = (p: Peer) => p.send(FrameType.Signal, Signal, { conversationId: fromHex(conv), senderId: "you", kind: 3, data: encode(Cursors, { readSeq: 1n, recvSeq: 1n }) });
  const asked = async (p: Peer) => {
    const { f, q } = await p.request(methods.conversation);
    assert.deepEqual(q.conversationId, fromHex(conv));
    return f;
  };
  const ways: ((p: Peer) => Promise<void>)[] = [
    async (p) => { // once, though it is heard of twice
      cursors(p);
      cursors(p);
      p.answer(await asked(p), methods.conversation, hidden);
    },
    async (p) => {
      cursors(p);
      p.refuse(await asked(p), Code.Overloaded);
      await new Promise(setImmediate); // as two frames of a real connection
      cursors(p);
      p.answer(await asked(p), methods.conversation, hidden);
    },
    async (p) => { // refused for a moment, and nothing more is heard
      cursors(p);
      p.refuse(await asked(p), Code.Overloaded);
      p.answer(await asked(p), methods.conversation, hidden);
    },
    async (p) => {
      p.send(FrameType.Hint, Hint, { heads: [{ conversationId: fromHex(conv), seq: 2n }] });
      p.answer(await asked(p), methods.conversation, hidden);
    },
    async (p) => {
      p.deliver(conv, message(2n, "two"));
      p.answer(await asked(p), methods.conversation, hidden);
    },
  ];
  for (const way of ways) {
    const a = await actor();
    const p = await a.fake.peer();
    await p.welcome();
    await way(p);
    const { f } = await p.sync();
    p.synced(f, conv, { fromSeq: 1n, toSeq: 2n, firstSeq: 1n, lastSeq: 2n, messages: [message(1n, "one"), message(2n, "two")] });
    await a.until(() => a.texts().length === 2);
    await a.until(() => a.client.conversations.get(conv)!.muted);
    const c = a.client.conversations.get(conv)!;
    assert.deepEqual([c.lastSeq, c.readSeq, c.unread], [2n, 1n, 1]);
  }
});

test("who is taken out among many without being named learns of it, and who is back how the group stands", async (t) => {
  t.mock.method(Math, "random", () => 0); // asked for at once
  const a = await actor();
  const p = await a.fake.peer();
  await p.welcome();
  const group = groupConversation("team");
  const deliver = (seq: bigint, ...texts: string[]) =>
    p.deliver(group, ...texts.map((text, i) => ({ ...message(seq + BigInt(i), text), msgType: text.startsWith("{") ? 64 : 1 })));
  const asked = async (lastSeq: bigint, role: number, leftSeq = 0n) => {
    const { f, q } = await p.request(methods.conversation);
    assert.deepEqual(q.conversationId, fromHex(group));
    p.answer(f, methods.conversation, { conversationId: fromHex(group), lastSeq, role, leftSeq });
    await a.until(() => a.events.some((e) => e.type === "conversation" && e.data.lastSeq === lastSeq));
    const c = a.client.conversations.get(group)!;
    assert.deepEqual([c.role, c.leftSeq], [role, leftSeq]);
  };
  deliver(1n, `{"do":"add","users":["me"],"count":1}`);
  await asked(1n, 1);
  deliver(2n, `{"do":"remove","users":["carol"],"count":2}`);
  await asked(2n, 0, 2n);
  deliver(3n, `{"do":"add","users":["carol"],"count":2}`, "welcome back");
  await asked(4n, 1);
  deliver(5n, `{"do":"remove","users":["me"],"count":1}`);
  deliver(6n, `{"do":"add","users":["me"],"count":1}`, "and again");
  await asked(7n, 1);
  deliver(8n, `{"do":"remove","users":["carol"],"count":1}`); // all are named: nothing is asked
  deliver(9n, `{"do":"role","users":["me"],"count":1,"role":"admin"}`, "in the same frame");
  await asked(10n, 2);
});

test("a connection on which nothing is heard is given up; the next asks for a shorter heartbeat", async () => {
  const a = await actor({ deadAfterMs: 50 });
  let p = await a.fake.peer();
  p.deaf = true;
  const before = await p.welcome({ heartbeatSeconds: 1, heartbeatMinSeconds: 1, heartbeatMaxSeconds: 60 });
  assert.equal(before.heartbeatSeconds, 0);
  p = await a.fake.peer();
  const after = await p.welcome({ heartbeatSeconds: 1 });
  assert.equal(after.heartbeatSeconds, 1);
  assert.ok(a.events.some((e) => e.type === "disconnected"));
});

test("wrong bytes of a server end the connection, not the client", async () => {
  const a = await actor();
  let p = await a.fake.peer();
  await p.welcome();
  p.send(FrameType.Deliver, { name: "wrong", fields: [{ number: 1, name: "x", kind: "uint32" }] }, { x: 1 } as never);
  p = await a.fake.peer();
  await p.welcome();
  p.deliver(conv, message(1n, "fine"));
  await a.until(() => a.texts().length === 1);
});

test("where there is no WebSocket it is said at once", async () => {
  const here = globalThis as { WebSocket?: unknown };
  const kept = here.WebSocket;
  here.WebSocket = undefined;
  try {
    await assert.rejects(async () => Client.open({ url: "ws://localhost/ws", token: async () => "t", device: "d" }), /no WebSocket here/);
  } finally {
    here.WebSocket = kept;
  }
});
