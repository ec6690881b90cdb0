// Coming to a server that is leaving.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { after, test } from "node:test";

import { Account, Client, serverSentEvents, webSocket, type Transport } from "../../src/index.js";
import { Server } from "./server.js";

const ends: (() => unknown)[] = [];
after(async () => {
  for (const end of ends.reverse()) await end();
});

/** A client that holds the server up: it doesn't go when it is told to. Resolves when it was. */
async function stays(http: string, account: Account): Promise<{ told: Promise<void> }> {
  const stop = new AbortController();
  ends.push(() => stop.abort());
  const r = await fetch(`http://${http}/events`, { headers: { Authorization: `Bearer ${await account.token()}` }, signal: stop.signal });
  const reader = r.body!.pipeThrough(new TextDecoderStream()).getReader();
  let heard = "";
  const until = async (what: RegExp): Promise<RegExpExecArray> => {
    for (;;) {
      const found = what.exec(heard);
      if (found) return found;
      const { done, value } = await reader.read();
      assert.ok(!done, `the stream ended, and never told ${what}: ${heard}`);
      heard += value;
    }
  };
  const [, key] = await until(/"key": "([^"]+)"/);
  await fetch(`http://${http}/events/${key}?seq=1`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ type: "connect", data: { version: 1, device_id: account.grant!.device } }),
  });
  await until(/"connack"/);
  const told = until(/"drain"/).then(() => {});
  told.catch(() => {});
  return { told };
}

test("who comes to a server that is leaving goes to the one that it names", { timeout: 60_000 }, async () => {
  const asked: string[] = []; // of the other server
  let heard: (() => void) | undefined;
  const other = createServer((c) => {
    c.on("error", () => {});
    c.once("data", (b) => {
      asked.push(b.toString().split("\r\n")[0]!);
      heard?.();
      c.destroy();
    });
  }).listen(0, "127.0.0.1");
  await once(other, "listening");
  ends.push(() => other.close());
  const at = `127.0.0.1:${(other.address() as { port: number }).port}`;
  const server = await Server.start({ GOCHAT_DRAIN__ALTERNATIVES: at, GOCHAT_DRAIN__DEADLINE: "30s" });
  ends.push(() => server.remove());
  const password = "correct horse battery";
  const [old, fresh] = [await Account.open(`http://${server.http}`), await Account.open(`http://${server.http}`)];
  await old.register({ name: "old", password, device: "old" });
  await fresh.register({ name: "fresh", password, device: "fresh" });
  const { told } = await stays(server.http, old);
  server.leave();
  await told;

  const url = `ws://${server.http}/ws`;
  for (const [transport, want] of [[webSocket(url), "GET /ws HTTP/1.1"], [serverSentEvents(url), "GET /events?protocol=gochat.v1 HTTP/1.1"]] as [Transport, string][]) {
    const dialled: string[] = [];
    const client = await Client.open({
      url, token: fresh.grant!.accessToken, device: "fresh", minBackoffMs: 1, maxBackoffMs: 2,
      transport: (address, handler, signal) => (dialled.push(address), transport(address, handler, signal)),
    });
    const reached = new Promise<void>((resolve) => (heard = resolve));
    client.start();
    await reached;
    await client.close();
    assert.deepEqual(dialled.slice(0, 2), [url, at]); // at once: one try was enough
    assert.equal(asked.at(-1), want);
  }
});
