// A room in which more is said than the server brings, and one client that reads slowly.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Account, Client, roomConversation } from "../../src/index.js";
import { Server } from "./server.js";

let server: Server;
before(async () => {
  server = await Server.start({ GOCHAT_ROOMS__CREATE: "anyone", GOCHAT_ROOMS__DELIVERIES_PER_SECOND: "20" });
});
after(() => server.remove());

async function connected(name: string, queue?: number): Promise<Client> {
  const a = await Account.open(`http://${server.http}`);
  await a.register({ name, password: "correct horse battery", device: name });
  const c = await Client.open({ url: `ws://${server.http}/ws`, token: a.token, device: name, ...(queue ? { queue } : {}) });
  c.start();
  await c.connected();
  return c;
}

test("what came and what was declared to be left out is what was said", { timeout: 60_000 }, async () => {
  const [talker, quick, slow] = [await connected("talker"), await connected("quick"), await connected("slow", 4)];
  const room = roomConversation("crowd");
  await talker.createRoom({ name: "crowd" });
  const n = 400;
  const accounts = [talker, quick, slow].map((c) => {
    const had = { seqs: [] as bigint[], missed: 0 };
    const all = new Promise<typeof had>((resolve) => {
      const look = () => had.seqs.length + had.missed >= n && resolve(had);
      c.on("message", async (m) => {
        had.seqs.push(m.seq);
        look();
        if (c === slow) await new Promise((r) => setTimeout(r, 1));
      });
      c.on("leftOut", ({ count }) => {
        had.missed += count;
        look();
      });
    });
    return all;
  });
  for (const c of [talker, quick, slow]) await c.joinRoom(room);
  const sent = [];
  for (let i = 0; i < n; i++) sent.push((await talker.send({ conversation: room }, `message ${i}`)).stored);
  await Promise.all(sent);
  const [own, much, little] = await Promise.all(accounts);
  assert.equal(own!.missed, 0); // its own come with their acks
  for (const had of [own!, much!, little!]) {
    assert.equal(had.seqs.length + had.missed, n);
    assert.equal(new Set(had.seqs).size, had.seqs.length);
  }
  console.log(`of ${n} messages: quick was told ${much!.seqs.length} and ${much!.missed} left out, slow ${little!.seqs.length} and ${little!.missed}`);
  assert.ok(much!.missed > 0 && much!.seqs.length > 0);
  assert.deepEqual((await quick.history(room, 0n, 3)).messages.map((m) => m.text), [n - 3, n - 2, n - 1].map((i) => `message ${i}`));
  await Promise.all([talker, quick, slow].map((c) => c.close()));
});
