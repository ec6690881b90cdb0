import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Account, Client, MemoryStore, newDeviceId, serverSentEvents, type Config, type Message, type Store } from "../../src/index.js";
import { tcp } from "../../src/node/index.js";
import { Server } from "./server.js";

let server: Server;
before(async () => {
  server = await Server.start();
});
after(() => server.remove());

const password = "correct horse battery";

async function account(name: string): Promise<Account> {
  const a = await Account.open(`http://${server.http}`);
  await a.register({ name, password, device: newDeviceId() });
  return a;
}

const url = () => `ws://${server.http}/ws`;
const over = (kind: string): Partial<Config> =>
  kind === "tcp" ? { url: server.tcp, transport: tcp() } : kind === "events" ? { url: url(), transport: serverSentEvents(url()) } : { url: url() };

async function client(a: Account, kind: string, store: Store = new MemoryStore()): Promise<{ client: Client; got: Message[] }> {
  const c = await Client.open({ url: "", ...over(kind), token: a.token, device: a.grant!.device, store, minBackoffMs: 50, maxBackoffMs: 200, backlog: Infinity } as Config);
  const got: Message[] = [];
  c.on("message", (m) => void got.push(m));
  return { client: c.start(), got };
}

/** Resolves when the condition holds; looks again after each event. */
async function until(c: Client, holds: () => boolean): Promise<void> {
  if (holds()) return;
  for await (const _ of c.events()) if (holds()) return;
  throw new Error("the client ended before");
}

for (const kind of ["tcp", "websocket", "events"]) {
  test(`two clients chat over ${kind} while the server is killed and restarted`, { timeout: 60_000 }, async () => {
    const [alice, bob] = [await account(`alice-${kind}`), await account(`bob-${kind}`)];
    const a = await client(alice, kind);
    const b = await client(bob, kind);
    await Promise.all([a.client.connected(), b.client.connected()]);
    const n = 60;
    const acks = [];
    for (let i = 0; i < n; i++) {
      acks.push((await a.client.send({ user: bob.grant!.user }, `a${i}`)).stored);
      acks.push((await b.client.send({ user: alice.grant!.user }, `b${i}`)).stored);
      if (i === n / 3) await server.down();
      if (i === (2 * n) / 3) await server.up();
    }
    const seqs = (await Promise.all(acks)).map((x) => x.seq);
    assert.equal(new Set(seqs).size, 2 * n);
    for (const { client: c, got } of [a, b]) {
      await until(c, () => got.length >= 2 * n);
      assert.deepEqual(got.map((m) => m.seq), Array.from({ length: 2 * n }, (_, i) => BigInt(i + 1)));
      for (const who of ["a", "b"]) assert.deepEqual(got.map((m) => m.text).filter((t) => t.startsWith(who)), Array.from({ length: n }, (_, i) => `${who}${i}`));
    }
    assert.deepEqual(a.got.map((m) => m.text), b.got.map((m) => m.text));
    await Promise.all([a.client.close(), b.client.close()]);
  });
}

test("where WebSockets are blocked the client talks by itself, and asks for none again", { timeout: 60_000 }, async () => {
  let asked = 0;
  class Blocked {
    binaryType = "";
    bufferedAmount = 0;
    onopen = null;
    onmessage = null;
    onerror: ((e: never) => void) | null = null;
    onclose = null;
    constructor() {
      asked++;
      setTimeout(() => this.onerror?.({} as never));
    }
    send(): void {}
    close(): void {}
  }
  const alice = await account("alice-blocked");
  const c = await Client.open({ url: url(), webSocket: Blocked, token: alice.token, device: alice.grant!.device, minBackoffMs: 50, maxBackoffMs: 200 });
  c.start();
  await c.connected();
  await (await c.send({ user: alice.grant!.user }, "to myself")).stored;
  assert.equal(asked, 1);
  await server.down();
  const later = c.send({ user: alice.grant!.user }, "while it is down");
  await server.up();
  await (await later).stored;
  assert.equal(asked, 1);
  await c.close();
});
