// Several tabs, one connection.

import assert from "node:assert/strict";
import { test } from "node:test";

import { directConversation, MemoryStore, open, roomConversation, type Chat, type Message, type Store } from "../src/index.js";
import { fromHex } from "../src/ids.js";
import { methods } from "../src/wire/wire.gen.js";
import { Fake, message } from "./fake.js";

const conv = directConversation("me", "you");

/** Locks as a browser has them, as far as tabs need them. */
class Locks {
  private readonly queue: { run: () => void; gone: boolean }[] = [];
  private held = false;

  request(_name: string, options: LockOptions, fn: () => Promise<unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const entry = {
        gone: false,
        run: () => {
          this.held = true;
          fn().then(resolve, reject).finally(() => {
            this.held = false;
            this.next();
          });
        },
      };
      options.signal?.addEventListener("abort", () => {
        if (this.queue.includes(entry)) {
          entry.gone = true;
          reject(new Error("aborted"));
        }
      });
      this.queue.push(entry);
      queueMicrotask(() => this.next());
    });
  }

  private next(): void {
    if (this.held) return;
    const e = this.queue.shift();
    if (e && !e.gone) e.run();
    else if (e) this.next();
  }
}

let names = 0;

function browser(store: Store = new MemoryStore()) {
  const fake = new Fake();
  const locks = new Locks();
  const name = `test ${++names}`;
  const tab = async (): Promise<{ chat: Chat; got: Message[]; until: (n: number) => Promise<void> }> => {
    const chat = await open({
      url: "fake", token: "t", device: "d", transport: fake.transport, minBackoffMs: 1, maxBackoffMs: 2, backlog: Infinity, store: () => store,
      tabs: { locks: locks as unknown as LockManager, channel: () => new BroadcastChannel(name) },
    });
    const got: Message[] = [];
    let woken: (() => void) | undefined;
    chat.on("message", (m) => {
      got.push(m);
      woken?.();
    });
    chat.start();
    const until = async (n: number) => {
      while (got.length < n) await new Promise<void>((resolve) => (woken = resolve));
    };
    return { chat, got, until };
  };
  return { fake, tab };
}

test("tabs share a connection: events, calls, sends and the list", async () => {
  const b = browser();
  const first = await b.tab();
  const p = await b.fake.peer();
  await p.welcome({ limits: { maxContent: 12 << 10 } });
  await first.chat.connected();
  const second = await b.tab();
  await second.chat.connected();
  assert.equal(b.fake.addresses.length, 1);
  p.deliver(conv, message(1n, "hi"));
  await Promise.all([first.until(1), second.until(1)]);
  assert.equal(second.chat.user, "me");
  assert.equal(second.chat.state, "connected");
  assert.equal(second.chat.conversations.get(conv)!.unread, 1);
  assert.deepEqual([first.chat.maxContent, second.chat.maxContent], [12 << 10, 12 << 10]);

  const r = await second.chat.send({ user: "you" }, "from the second");
  const { f, s } = await p.sendFrame();
  assert.equal(s.content, "from the second");
  p.ack(f, 2n, { conversationId: fromHex(conv) });
  assert.equal((await r.stored).seq, 2n);
  await Promise.all([first.until(2), second.until(2)]);
  assert.equal(first.got[1]!.clientMsgId, r.id);

  const blocked = second.chat.block("you");
  const asked = await p.request(methods.block);
  p.refuse(asked.f, 3014);
  await assert.rejects(blocked, { name: "too_many" });
  assert.deepEqual((await second.chat.cached(conv)).map((m) => m.text), ["hi", "from the second"]);
  await Promise.all([first.chat.close(), second.chat.close()]);
});

test("another tab takes over: what was sent goes again, nothing comes twice, calls are answered", async () => {
  const b = browser();
  const first = await b.tab();
  let p = await b.fake.peer();
  await p.welcome();
  await first.chat.connected();
  const second = await b.tab();
  await second.chat.connected();
  p.deliver(conv, message(1n, "1"), message(2n, "2"));
  await Promise.all([first.until(2), second.until(2)]);
  const r = await second.chat.send({ user: "you" }, "3");
  const before = await p.sendFrame();
  const members = second.chat.devices();
  await p.request(methods.devices);
  await first.chat.close();

  p = await b.fake.peer();
  const hello = await p.welcome();
  assert.equal(hello.resumeToken, "resume");
  let devices = 0;
  let again;
  for (let i = 0; i < 2; i++) { // in either order
    const next = await p.either();
    if (next.send) again = next;
    else {
      devices++;
      p.answer(next.f, methods.devices, { devices: [{ deviceId: "d", current: true }] });
    }
  }
  assert.equal(devices, 1);
  assert.deepEqual(again!.send, before.s);
  p.ack(again!.f, 3n, { conversationId: fromHex(conv) });
  assert.equal((await r.stored).seq, 3n);
  assert.equal((await members)[0]!.current, true);
  p.deliver(conv, message(2n, "2"), message(4n, "4"));
  await second.until(4);
  assert.deepEqual(second.got.map((m) => m.text), ["1", "2", "3", "4"]);
  assert.equal(second.chat.state, "connected");
  await second.chat.close();
});

test("a tab that comes later has the list at once; calls wait for the tab that is to have the connection", async () => {
  const b = browser();
  const first = await b.tab();
  const early = first.chat.profiles(["you"]); // before there is a client at all
  const p = await b.fake.peer();
  await p.welcome({ conversations: [{ conversationId: fromHex(conv), users: ["me", "you"], lastSeq: 4n, readSeq: 4n }] });
  const { f } = await p.request(methods.profiles).catch(async () => p.request(methods.profiles));
  p.answer(f, methods.profiles, { answered: 1 });
  assert.equal((await early).size, 0);
  const second = await b.tab();
  await second.chat.connected();
  assert.deepEqual(second.chat.conversations.all().map((c) => c.peer), ["you"]);
  // What is still being pulled comes to the tab that came later, too.
  p.deliver(conv, message(1n, "1"));
  await Promise.all([first.until(1), second.until(1)]);
  await Promise.all([first.chat.close(), second.chat.close()]);
  await assert.rejects(second.chat.devices(), { name: "ClosedError" });
});

test("a room is the device's: all tabs hear it, who takes over enters it again and counts what was missed", async () => {
  const b = browser();
  const first = await b.tab();
  let p = await b.fake.peer();
  await p.welcome();
  await first.chat.connected();
  const second = await b.tab();
  await second.chat.connected();
  const room = roomConversation("lobby");
  const joining = second.chat.joinRoom(room);
  let asked = await p.request(methods.roomJoin);
  p.answer(asked.f, methods.roomJoin, { conversationId: fromHex(room), name: "lobby", lastSeq: 7n, count: 2 });
  assert.equal((await joining).count, 2);
  p.live(room, message(8n, "hi"));
  const told: string[] = [];
  const sent = await second.chat.send({ conversation: room }, "mine");
  const { f } = await p.sendFrame();
  p.ack(f, 10n);
  await sent.stored;
  p.live(room, message(9n, "late"));
  await Promise.all([first.until(3), second.until(3)]);
  for (const t of [first, second]) assert.deepEqual([t.got.map((m) => m.text), t.chat.rooms, t.chat.conversations.all()], [["hi", "mine", "late"], [room], []]);
  const third = await b.tab();
  await third.chat.connected();
  assert.deepEqual(third.chat.rooms, [room]);

  second.chat.on("leftOut", (l) => void told.push(`${l.count} up to ${l.upTo}`));
  const gone = new Promise((resolve) => third.chat.on("roomLeft", resolve));
  await first.chat.close();
  p = await b.fake.peer();
  await p.welcome();
  asked = await p.request(methods.roomJoin);
  assert.deepEqual(asked.q.conversationId, fromHex(room));
  p.answer(asked.f, methods.roomJoin, { conversationId: fromHex(room), lastSeq: 12n, count: 2 });
  p.live(room, message(13n, "again"));
  await Promise.all([second.until(4), third.until(1)]);
  assert.deepEqual(told, ["2 up to 12"]);
  const leaving = second.chat.leaveRoom(room);
  const left = await p.request(methods.roomLeave);
  p.answer(left.f, methods.roomLeave, {});
  await leaving;
  assert.deepEqual(await gone, { conversation: room, error: undefined });
  assert.deepEqual([second.chat.rooms, third.chat.rooms], [[], []]);
  await Promise.all([second.chat.close(), third.chat.close()]);
});
