import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { ConnectionError, orElse, serverSentEvents, type Connection, type Transport } from "../src/index.js";

/** A server whose answers the test writes. */
async function serve(t: { after(fn: () => void): void }, answer: (q: IncomingMessage, r: ServerResponse, body: Buffer) => void): Promise<string> {
  const s = createServer(async (q, r) => {
    const parts: Buffer[] = [];
    for await (const b of q) parts.push(b as Buffer);
    answer(q, r, Buffer.concat(parts));
  }).listen(0, "127.0.0.1");
  await once(s, "listening");
  t.after(() => {
    s.closeAllConnections();
    s.close();
  });
  return `ws://127.0.0.1:${(s.address() as AddressInfo).port}/ws`;
}

/** A handler that keeps what it is told. */
function handler() {
  const h = {
    bytes: [] as number[],
    end: undefined as unknown as Promise<{ why: Error; code?: number }>,
    data: (b: Uint8Array) => void h.bytes.push(...b),
    closed: (_why: Error, _code?: number): void => {},
  };
  h.end = new Promise((resolve) => (h.closed = (why, code) => resolve({ why, code })));
  return h;
}

const never = new AbortController().signal;
const open = (r: ServerResponse) => r.writeHead(200, { "Content-Type": "text/event-stream" }).write('event: open\ndata: {"key": "k/ey", "more": 1}\n\n');

test("events come cut anywhere, and the last one says why", async (t) => {
  const text = `: hello\n\ndata: ${btoa("\x01\x02\x03")}\n\n:\n\ndata: ${btoa("\xff")}\n\nevent: news\ndata: of a later version\n\nevent: close\ndata: {"code": 4008, "reason": "session_revoked"}\n\n`;
  let asked = "";
  const url = await serve(t, async (q, r) => {
    asked = q.url!;
    open(r);
    for (const c of text) {
      r.write(c);
      await new Promise((resolve) => setImmediate(resolve));
    }
    r.end();
  });
  const h = handler();
  await serverSentEvents(url)(new URL(url).host, h, never);
  const { why, code } = await h.end;
  assert.equal(asked, "/events?protocol=gochat.v1");
  assert.deepEqual(h.bytes, [1, 2, 3, 255]);
  assert.equal(code, 4008);
  assert.match(why.message, /session_revoked/);
});

test("bodies go in order, and again under their numbers when their answers are lost", { timeout: 20_000 }, async (t) => {
  const taken = new Map<string, Buffer>();
  const asked: string[] = [];
  let stream: ServerResponse;
  const url = await serve(t, (q, r, body) => {
    if (q.method === "GET") {
      stream = r;
      return void open(r);
    }
    const seq = new URL(q.url!, "http://x").searchParams.get("seq")!;
    asked.push(seq);
    taken.set(seq, taken.get(seq) ?? body);
    if (asked.length === 1) return void r.socket!.destroy(); // taken, but its answer is lost
    if (asked.length === 3) return void r.writeHead(503).end(); // of the proxy: not taken
    if (asked.length === 5) stream.end('event: close\ndata: {"code": 1012, "reason": "draining"}\n\n');
    r.writeHead(asked.length > 4 ? 410 : 204).end();
  });
  const h = handler();
  const c = await serverSentEvents(url)(url, h, never);
  const reused = Uint8Array.of(1);
  c.send(reused);
  reused[0] = 9;
  c.send(Uint8Array.of(2));
  c.send(Uint8Array.of(3));
  assert.equal(c.buffered, 3);
  while (c.buffered > 0) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(asked, ["1", "1", "2", "2"]);
  assert.deepEqual([...taken].map(([seq, b]) => [seq, ...b]), [["1", 1], ["2", 2, 3]]);
  c.send(Uint8Array.of(4));
  assert.equal((await h.end).code, 1012); // rather than that of the lost body
  c.send(Uint8Array.of(5)); // nobody is there
  c.close();
  assert.equal(c.buffered, 0);
});

test("what was queued is written before a close", async (t) => {
  const bodies: Buffer[] = [];
  let gone = (): void => {};
  const left = new Promise<void>((resolve) => (gone = resolve));
  const url = await serve(t, (q, r, body) => {
    if (q.method === "GET") {
      r.on("close", gone);
      return void open(r);
    }
    bodies.push(body);
    setTimeout(() => r.writeHead(204).end(), 20);
  });
  const h = handler();
  const c = await serverSentEvents(url)(url, h, never);
  for (let i = 0; i < 3; i++) c.send(new Uint8Array(40 << 10).fill(i));
  c.close();
  await h.end;
  await left;
  assert.deepEqual(bodies.map((b) => [b.length, b[0]]), [[40 << 10, 0], [40 << 10, 1], [40 << 10, 2]]);
});

test("a server that refuses, answers with something else, or isn't there", async (t) => {
  const url = await serve(t, (q, r) => {
    if (q.url!.startsWith("/page/")) r.writeHead(200, { "Content-Type": "text/html" }).end("<p>sign in to the network</p>");
    else if (q.url!.startsWith("/cut/")) r.writeHead(200, { "Content-Type": "text/event-stream" }).end("event: open\n");
    else r.writeHead(503, { "Content-Type": "application/json" }).end('{"error": {"name": "draining"}}');
  });
  for (const [path, want] of [["/ws", /503: draining/], ["/page/ws", /something else/], ["/cut/ws", /cut/]] as const) {
    const at = new URL(path, url).href;
    await assert.rejects(serverSentEvents(at)(at, handler(), never), (e: Error) => e instanceof ConnectionError && want.test(e.message));
  }
  await assert.rejects(serverSentEvents("ws://127.0.0.1:1/ws")("ws://127.0.0.1:1/ws", handler(), never), ConnectionError);
  const stop = new AbortController();
  const silent = await serve(t, () => {});
  const dialling = serverSentEvents(silent)(silent, handler(), stop.signal);
  stop.abort();
  await assert.rejects(dialling, /given up/);
});

test("the second way is taken where the first can't be, and remembered unless the first has worked", async () => {
  const calls: string[] = [];
  let works = new Set<string>();
  const way = (name: string): Transport => async () => {
    calls.push(name);
    if (!works.has(name)) throw new ConnectionError(name);
    return {} as Connection;
  };
  const dial = async (t: Transport, ...can: string[]) => {
    works = new Set(can);
    calls.length = 0;
    await t("", handler(), never).catch((e: Error) => calls.push(`no ${e.message}`));
    return calls.join(" ");
  };
  const blocked = orElse(way("a"), way("b"));
  assert.equal(await dial(blocked), "a b no a"); // the server is down
  assert.equal(await dial(blocked, "b"), "a b");
  assert.equal(await dial(blocked, "a", "b"), "b");
  const restarted = orElse(way("a"), way("b"));
  assert.equal(await dial(restarted, "a"), "a");
  assert.equal(await dial(restarted, "b"), "a b");
  assert.equal(await dial(restarted, "a", "b"), "a");
});
