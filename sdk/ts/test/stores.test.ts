// Every store keeps the same promises.

import assert from "node:assert/strict";
import { appendFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";

import { IndexedDBStore, MemoryStore, type Message, type Outgoing, type Store } from "../src/index.js";
import { unknownConversation } from "../src/list.js";
import { FileStore } from "../src/node/index.js";

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
