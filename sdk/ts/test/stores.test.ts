// Every store keeps the same promises.

import assert from "node:assert/strict";
import { appendFile, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

import { IndexedDBStore, MemoryStore, type Message, type Outgoing, type Store } from "../src/index.js";
import { unknownConversation } from "../src/list.js";
import { FileStore } from "../src/node/index.js";
import { silent } from "../src/events.js";
import { Saver } from "../src/session/saver.js";
import type { Change } from "../src/store/store.js";

(globalThis as { IDBKeyRange?: unknown }).IDBKeyRange = IDBKeyRange;
const folder = await mkdtemp(join(tmpdir(), "gochat-store-"));
after(() => rm(folder, { recursive: true, force: true }));

const outgoing = (id: string, text = id): Outgoing => ({ id, conversation: "c", user: "", body: new TextEncoder().encode(text), interactive: true, base: 7n });
const message = (conversation: string, seq: bigint): Message => ({
  conversation, peer: "", seq, id: "1", sender: "~n1", clientMsgId: "", own: false, time: 5, type: 1, text: `~${seq}`, data: Uint8Array.of(1, 255), mentions: ["a"], replyToSeq: 2n ** 63n,
});

interface Kind {
  name: string;
  open(perConversation?: number): Promise<Store>;
}

function kinds(): Kind[] {
  const factory = new IDBFactory();
  const path = join(folder, `${Math.random()}`);
  const memory = new MemoryStore(3);
  return [
    { name: "memory", open: async () => memory },
    { name: "IndexedDB", open: (n) => IndexedDBStore.open("x", { factory, perConversation: n }) },
    { name: "file", open: (n) => FileStore.open(path, n) },
  ];
}

for (const kind of kinds()) {
  test(`${kind.name}: what was stored is there again`, async () => {
    let s = await kind.open(3);
    assert.deepEqual(await s.load(), { session: { user: "", storeEpoch: 0n, syncMark: 0n, resumeToken: "" }, outbox: [], cursors: new Map(), listed: [] });
    await Promise.all(["3", "1", "2"].map((id) => s.putOutgoing(outgoing(id))));
    await s.replaceOutgoing("1", outgoing("9", "1"));
    await s.dropOutgoing("3");
    await s.dropOutgoing("none");
    const session = { user: "me", storeEpoch: 2n ** 64n - 1n, syncMark: 5n, resumeToken: "~" };
    const listed = [{ conversation: { ...unknownConversation("c"), lastSeq: 4n, users: ["a", "b"] }, asOf: 2n, above: [{ seq: 3n, calls: true }] }];
    await s.save({ session, listed, cursors: new Map([["c", { applied: 4n, head: 9n }]]), messages: [1n, 2n, 3n, 4n].map((n) => message("c", n)) });
    await s.save({ cursors: new Map([["c", { applied: 5n, head: 9n }]]), messages: [message("c", 5n), message("d", 1n)] });
    await s.close();

    s = await kind.open(3);
    const st = await s.load();
    assert.deepEqual(st.outbox, [outgoing("9", "1"), outgoing("2")]);
    assert.deepEqual(st.session, session);
    assert.deepEqual(st.cursors, new Map([["c", { applied: 5n, head: 9n }]]));
    assert.deepEqual(st.listed.map(({ conversation, asOf, above }) => ({ conversation, asOf, above })), listed);
    const newest = await s.messages("c", 0n, 2);
    assert.deepEqual(newest, [message("c", 4n), message("c", 5n)]);
    assert.deepEqual((await s.messages("c", 5n, 1)).map((m) => m.seq), [4n]);
    assert.deepEqual(await s.messages("none", 0n, 10), []);

    await s.save({ reset: true, session: { ...session, storeEpoch: 1n } });
    await s.close();
    s = await kind.open(3);
    const after = await s.load();
    assert.deepEqual([after.cursors.size, after.listed.length, after.outbox.length, after.session.storeEpoch], [0, 0, 2, 1n]);
    assert.deepEqual(await s.messages("c", 0n, 10), []);
    await s.close();
  });

  test(`${kind.name}: the cache is bounded`, async () => {
    const s = await kind.open(3);
    for (let n = 1n; n <= 200n; n++) await s.save({ cursors: new Map([["e", { applied: n, head: n }]]), messages: [message("e", n)] });
    const all = await s.messages("e", 0n, 1000);
    assert.ok(all.length >= 3 && all.length <= 20, String(all.length));
    assert.equal(all.at(-1)!.seq, 200n);
    all.forEach((m, i) => assert.equal(m.seq, all[0]!.seq + BigInt(i)));
    await s.close();
  });
}

test("IndexedDB: conversations that are silent for the longest leave the cache first", async () => {
  const s = await IndexedDBStore.open("total", { factory: new IDBFactory(), total: 10 });
  for (const c of ["a", "b", "c"]) await s.save({ cursors: new Map(), messages: [1n, 2n, 3n, 4n].map((n) => message(c, n)) });
  assert.deepEqual((await s.messages("a", 0n, 10)).length, 0);
  assert.deepEqual((await s.messages("c", 0n, 10)).length, 4);
  await s.close();
});

test("a file that a crash cut off is read up to there", async () => {
  const path = join(folder, "cut");
  let s = await FileStore.open(path);
  await s.putOutgoing(outgoing("1"));
  await s.close();
  await appendFile(path, `{"put":{"id":"2","conv`);
  s = await FileStore.open(path);
  await s.putOutgoing(outgoing("3"));
  await s.close();
  s = await FileStore.open(path);
  assert.deepEqual((await s.load()).outbox.map((o) => o.id), ["1", "3"]);
  await s.close();
});

test("a line that could be written in part is cut off, or nothing is written any more", async () => {
  const path = join(folder, "part");
  let s = await FileStore.open(path);
  await s.putOutgoing(outgoing("1"));
  const file = s["file"];
  const { appendFile: whole, truncate } = file;
  const part: typeof whole = async (data) => {
    await whole.call(file, Buffer.from(data as string | Uint8Array).subarray(0, 20));
    throw new Error("the disk is full");
  };
  file.appendFile = part;
  await assert.rejects(s.putOutgoing(outgoing("2")), /full/);
  file.appendFile = whole;
  await s.putOutgoing(outgoing("3"));
  file.appendFile = part;
  file.truncate = () => Promise.reject(new Error("no"));
  await assert.rejects(s.putOutgoing(outgoing("4")), /full/);
  Object.assign(file, { appendFile: whole, truncate });
  await assert.rejects(s.putOutgoing(outgoing("5")), /any more/);
  await s.close();
  s = await FileStore.open(path);
  assert.deepEqual((await s.load()).outbox.map((o) => o.id), ["1", "3"]);
  await s.close();
});

test("a file that can't be written anew goes on as it is", async () => {
  const path = join(folder, "anew");
  let s = await FileStore.open(path);
  await mkdir(`${path}.new`);
  s["lines"] = 20_000;
  await s.putOutgoing(outgoing("1"));
  await s.putOutgoing(outgoing("2"));
  await rm(`${path}.new`, { recursive: true });
  s["lines"] = 20_000;
  await s.putOutgoing(outgoing("3"));
  await s.putOutgoing(outgoing("4"));
  await s.close();
  s = await FileStore.open(path);
  assert.deepEqual((await s.load()).outbox.map((o) => o.id), ["1", "2", "3", "4"]);
  await s.close();
});

/** Refuses changes while it is told to. */
class Refusing extends MemoryStore {
  on = false;
  tries = 0;
  /** Called once, while a change is being refused. */
  meanwhile: (() => void) | undefined;

  override async save(change: Change): Promise<void> {
    this.tries++;
    if (!this.on) return super.save(change);
    this.meanwhile?.();
    this.meanwhile = undefined;
    throw new Error("the disk is full");
  }
}

const at = (n: bigint) => ({ applied: n, head: n });

test("a change that was refused is stored with the next one, which is newer", async () => {
  const store = new Refusing();
  const saver = new Saver(store, (c) => ({ conversation: unknownConversation(c), asOf: 0n, above: [] }), silent);
  const session = { user: "me", storeEpoch: 1n, syncMark: 5n, resumeToken: "" };
  store.on = true;
  saver.keep(message("a", 1n));
  saver.cursor("a", at(1n));
  saver.cursor("b", at(7n));
  saver.list("a");
  store.meanwhile = () => saver.cursor("a", at(2n));
  await saver.idle();
  assert.equal(store.tries, 3, "for each time that something came, and once at the end");
  assert.deepEqual(saver.unsaved("a").map((m) => m.seq), [1n]);
  store.on = false;
  saver.setSession(session);
  await saver.idle();
  const st = await store.load();
  assert.deepEqual([st.session, st.cursors], [session, new Map([["a", at(2n)], ["b", at(7n)]])]);
  assert.deepEqual(st.listed.map((l) => l.conversation.id), ["a"]);
  assert.deepEqual((await store.messages("a", 0n, 9)).map((m) => m.seq), [1n]);
  assert.equal(store.tries, 4);
});

test("what was refused of an epoch isn't stored in the next one, which is stored as one with forgetting the old", async () => {
  const store = new Refusing();
  const saver = new Saver(store, () => undefined, silent);
  await store.save({ cursors: new Map([["a", at(9n)], ["b", at(9n)]]), messages: [message("a", 9n)] });
  store.on = true;
  saver.keep(message("a", 10n));
  saver.cursor("a", at(10n));
  const session = { user: "me", storeEpoch: 2n, syncMark: 0n, resumeToken: "" };
  store.meanwhile = () => {
    saver.forget();
    saver.setSession(session);
  };
  await saver.idle();
  assert.deepEqual((await store.load()).session.storeEpoch, 0n);
  store.on = false;
  saver.cursor("b", at(1n));
  await saver.idle();
  const st = await store.load();
  assert.deepEqual([st.session, st.cursors], [session, new Map([["b", at(1n)]])]);
  assert.deepEqual(await store.messages("a", 0n, 9), []);
});
