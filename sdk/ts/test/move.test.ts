// Leaving a server that leaves: transcripts of what a client says to it and to the others.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, Code, directConversation, MemoryStore, type Config } from "../src/index.js";
import { Strays } from "../src/session/move.js";
import { Dismissal } from "../src/session/link.js";
import { GoChatError } from "../src/errors.js";
import { FrameType } from "../src/wire/frame.js";
import { Drain, Kick } from "../src/wire/wire.gen.js";
import { fromHex } from "../src/ids.js";
import { actor, type Actor } from "./actor.js";
import { Fake, message, type Peer } from "./fake.js";

const conv = directConversation("me", "you");
const to = { conversation: conv };

const passed = () => new Promise<void>((resolve) => setImmediate(resolve));
const until = async (holds: () => boolean) => {
  while (!holds()) await passed();
};
const came = (a: Actor, type: string) => a.events.filter((e) => e.type === type).length;

/** A client whose server says DRAIN, and those that it names. */
async function leaving(others: Record<string, Fake>, told: { alternatives?: string[]; deadlineMs?: number } = {}, more: Partial<Config> = {}): Promise<{ a: Actor; p: Peer }> {
  const fake = new Fake();
  const a = await actor({ fake, transport: (address, handler, signal) => (others[address] ?? fake).transport(address, handler, signal), ...more });
  const p = await fake.peer();
  await p.welcome();
  await a.client.connected();
  p.send(FrameType.Drain, Drain, { deadlineMs: 3_600_000, jitterMs: 1, alternatives: Object.keys(others), ...told });
  return { a, p };
}

/** Answers every CONNECT with an error; returns how many there were. */
function refusing(fake: Fake, code: number, retryAfterMs = 0): { count: number } {
  const n = { count: 0 };
  void (async () => {
    for (;;) {
      const p = await fake.peer();
      await p.next(FrameType.Connect);
      n.count++;
      p.refuse(undefined, code, retryAfterMs);
    }
  })();
  return n;
}

test("others that take nobody at first are tried again, and until one does the old server is good", async () => {
  const [gone, other] = [new Fake(), new Fake()];
  gone.unreachable = true;
  const { a, p } = await leaving({ "gone:1": gone, "other:1": other });
  let p2 = await other.peer();
  await p2.next(FrameType.Connect);
  p2.cut();
  const one = await a.client.send(to, "one");
  p.ack((await p.sendFrame()).f, 1n);
  await one.stored;
  p2 = await other.peer();
  await p2.next(FrameType.Connect);
  p2.refuse(undefined, Code.Overloaded, 1);
  p.deliver(conv, message(2n, "m2"));
  await a.until(() => a.texts().length === 2);
  p2 = await other.peer();
  const two = await a.client.send(to, "two");
  await p.sendFrame();
  assert.equal(p.closed, false);
  assert.equal((await p2.welcome()).resumeToken, "resume");
  const again = await p2.sendFrame();
  assert.equal(again.resend, true);
  p2.ack(again.f, 3n);
  await two.stored;
  await a.until(() => a.texts().length === 3);
  assert.deepEqual(a.texts(), ["one", "m2", "two"]);
  await until(() => p.closed);
  assert.equal(came(a, "disconnected"), 0);
  assert.ok(gone.addresses.length > 1);
});

test("where none ever takes it the client stays until the server closes the connection, and comes back", async () => {
  const other = new Fake();
  const asked = refusing(other, Code.Unavailable, 1);
  const { a, p } = await leaving({ "other:1": other }, { deadlineMs: 10 }); // and it isn't strict about it
  await until(() => asked.count === 5);
  p.deliver(conv, message(1n, "m1"));
  const one = await a.client.send(to, "one");
  await p.sendFrame(); // stored, and the ack is lost
  await a.until(() => a.texts().length === 1);
  p.refuse(undefined, Code.Draining, 3);
  const back = await a.fake.peer();
  assert.deepEqual(a.events.flatMap((e) => (e.type === "disconnected" ? [e.data.retryMs] : [])), [3]);
  await back.welcome();
  back.deliver(conv, message(1n, "m1"));
  const { f, resend } = await back.sendFrame();
  assert.equal(resend, true);
  back.ack(f, 2n);
  await one.stored;
  await a.until(() => a.texts().length === 2);
  assert.deepEqual(a.texts(), ["m1", "one"]);
});

test("one that refuses the client for good isn't asked again; one that leaves too may name others; a token that expired is told so", async () => {
  const [never, second, third] = [new Fake(), new Fake(), new Fake()];
  const asked = refusing(never, Code.Unauthenticated);
  const others = { "never:1": never, "second:1": second, "third:1": third };
  const hints: boolean[] = [];
  const { a, p } = await leaving(others, { alternatives: ["never:1", "second:1"] }, { token: ({ expired }) => (hints.push(expired), "token") });
  for (const i of [0, 1, 2]) {
    const p2 = await second.peer();
    await p2.next(FrameType.Connect);
    if (i === 2) p2.send(FrameType.Drain, Drain, { alternatives: ["second:1", "third:1"] });
    p2.refuse(undefined, [Code.Overloaded, Code.TokenExpired, Code.Draining][i]!, i < 2 ? 1 : 3_600_000);
  }
  p.deliver(conv, message(1n, "m1"));
  await a.until(() => a.texts().length === 1);
  const p3 = await third.peer();
  assert.equal((await p3.welcome()).resumeToken, "resume");
  await until(() => p.closed);
  assert.equal(asked.count, 1);
  assert.equal(hints.filter((h) => h).length, 1);
  assert.deepEqual([came(a, "stopped"), came(a, "disconnected")], [0, 0]);
});

for (const first of [[], ["second:1"]]) {
  test(`a second DRAIN tells better, after one with ${first.length} others`, async () => {
    const [second, third] = [new Fake(), new Fake()];
    const asked = refusing(second, Code.Unavailable, 3_600_000);
    const fake = new Fake();
    const others: Record<string, Fake> = { "second:1": second, "third:1": third };
    const a = await actor({ fake, transport: (address, handler, signal) => (others[address] ?? fake).transport(address, handler, signal), minBackoffMs: 3_600_000, maxBackoffMs: 3_600_000 });
    const p = await fake.peer();
    await p.welcome();
    const one = await a.client.send(to, "one");
    const { f } = await p.sendFrame();
    p.send(FrameType.Drain, Drain, { deadlineMs: 3_600_000, alternatives: first });
    await until(() => asked.count === first.length);
    await passed();
    p.send(FrameType.Drain, Drain, { deadlineMs: 60_000, alternatives: ["second:1", "third:1"] });
    const p3 = await third.peer();
    p.ack(f, 1n);
    await one.stored;
    await p3.welcome();
    await until(() => p.closed);
    assert.equal(came(a, "disconnected"), 0);
  });
}

test("another server that refuses the resume token, while there is no other token, doesn't take it from the client", async () => {
  const other = new Fake();
  const asked = refusing(other, Code.Unauthenticated);
  let tokens = 1;
  const { a, p } = await leaving({ "other:1": other }, {}, { token: async () => {
    if (tokens-- > 0) return "token";
    throw new Error("none");
  } });
  await until(() => asked.count === 2); // again: with a token it may be another answer
  p.cut();
  const hello = await (await a.fake.peer()).welcome();
  assert.deepEqual([hello.token, hello.resumeToken], ["", "resume"]);
});

test("close ends an attempt to move too", async () => {
  const other = new Fake();
  const { a, p } = await leaving({ "other:1": other });
  const p2 = await other.peer();
  await p2.next(FrameType.Connect);
  await a.client.close();
  await until(() => p.closed && p2.closed);
});

test("close counts in whatever moment it comes", async () => {
  for (let steps = 0; steps < 60; steps++) {
    const fake = new Fake();
    const client = await Client.open({ url: "fake", token: "t", device: "d", transport: fake.transport });
    client.start();
    const p = await fake.peer();
    await p.welcome();
    for (let i = 0; i < steps; i++) await Promise.resolve();
    await client.close();
    await until(() => p.closed);
  }
});

test("a device that is signed out while it moves is that, though the other server hasn't heard of it", async () => {
  const [other, store] = [new Fake(), new MemoryStore()];
  const { a, p } = await leaving({ "other:1": other }, {}, { store });
  const p2 = await other.peer();
  p.send(FrameType.Kick, Kick, { code: Code.SessionRevoked });
  await until(() => p.closed);
  await p2.welcome();
  await a.until(() => came(a, "stopped") === 1);
  await until(() => p2.closed);
  assert.equal((await store.load()).session.resumeToken, "");
});

test("a client that can't have been replaced by itself, since it reached nobody, was replaced by another", async () => {
  const other = new Fake();
  other.unreachable = true;
  const { a, p } = await leaving({ "other:1": other });
  await until(() => other.addresses.length > 0);
  p.refuse(undefined, Code.Replaced);
  await a.until(() => came(a, "stopped") === 1);
});

test("each attempt that was given up explains one replacement", () => {
  const s = new Strays();
  const replaced = new Dismissal(new GoChatError(Code.Replaced, "", 0, true));
  for (let i = 0; i < 5; i++) s.gaveUp();
  assert.deepEqual([1, 2, 3, 4, 5].map(() => s.explain(replaced) === replaced), [false, false, false, false, true]);
});

test("an ack of the old server that comes while the client moves: the message is told once, resent or not", async () => {
  for (let steps = 0; steps < 20; steps++) {
    const other = new Fake();
    const { a, p } = await leaving({ "other:1": other });
    const one = await a.client.send(to, "one");
    const { f } = await p.sendFrame();
    const p2 = await other.peer();
    const welcome = p2.welcome();
    for (let i = 0; i < steps; i++) await Promise.resolve();
    p.ack(f, 1n);
    await welcome;
    await until(() => p.closed);
    await a.client.send(to, "end");
    for (;;) {
      const { f, s } = await p2.sendFrame();
      p2.ack(f, s.content === "end" ? 2n : 1n, { duplicate: s.content !== "end", conversationId: fromHex(conv) });
      if (s.content === "end") break;
    }
    await one.stored;
    await a.until(() => a.texts().length === 2);
    assert.deepEqual([a.texts(), came(a, "sent"), came(a, "disconnected")], [["one", "end"], 2, 0]);
  }
});
