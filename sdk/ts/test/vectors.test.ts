// The protocol's golden vectors, both directions.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { checkSend } from "../src/convert.js";
import { GoChatError } from "../src/errors.js";
import {
  conversationKind, directConversation, fromHex, fromUuid, groupConversation, messageTime, roomConversation, selfConversation, toHex, toUuid, uuidTime, validClientMsgId, validId,
} from "../src/ids.js";
import { defaultMaxFrame, encodeFrame, FrameReader, FrameType, parseFrame } from "../src/wire/frame.js";
import { decode, encode, text } from "../src/wire/proto.js";
import { Message, Request, Send, methods } from "../src/wire/wire.gen.js";
import { bodies, framesOf, jsonOf, type Json } from "./json.js";

const read = (name: string) => JSON.parse(readFileSync(new URL(`../../../../../protocol/testdata/${name}`, import.meta.url), "utf8"));

interface FrameVector {
  name: string;
  from: "client" | "server";
  frame: string;
  json?: Json[];
  error?: string;
  canonical?: boolean;
}

const frames = read("frames.json") as FrameVector[];

for (const v of frames.filter((v) => v.json)) {
  test(`frame: ${v.name}`, () => {
    const bytes = fromHex(v.frame);
    const got = parseFrame(bytes, 0, defaultMaxFrame)!;
    assert.equal(got.next, bytes.length);
    assert.deepEqual(jsonOf(got.frame), v.json);
    if (v.canonical) assert.equal(toHex(framesOf(v.json!)), v.frame);
    // However it is cut, the same frame comes out.
    const r = new FrameReader();
    for (let i = 0; i < bytes.length; i++) {
      assert.equal(r.next(), undefined);
      r.push(bytes.subarray(i, i + 1));
    }
    assert.deepEqual(r.next(), got.frame);
  });
}

// Frames that a server refuses. What the codec refuses is refused for the same reason; what is left to a server (limits, ids) is read.
const left = new Set([
  "unknown_frame", "unknown_method", "send without request id", "sync without request id", "request without request id", "connect, no version", "connect, no device", "connect, token too long",
  "recvack, conversation id cut", "sync, nothing", "sync, too many ranges", "signal, no target", "signal, too much data", "request, no method", "request, open_direct with nobody",
  "request, history of half an id",
]);
for (const v of frames.filter((v) => v.error)) {
  test(`refused: ${v.name}`, () => {
    let code = "";
    try {
      const max = v.from === "client" && v.name.startsWith("length") ? 8 << 10 : defaultMaxFrame;
      const { frame } = parseFrame(fromHex(v.frame), 0, max)!;
      const schema = bodies.get(frame.type);
      if (schema) {
        const m = decode(schema, frame.body);
        if (frame.type === FrameType.Request) {
          const q = m as Request;
          const method = Object.values(methods).find((x) => x.number === q.method);
          if (method) decode(method.request as never, q.body);
        }
        if (frame.type === FrameType.Send) checkSend(m as Send, { maxContent: 12 << 10, maxExt: 1 << 10, maxMentions: 50 });
      }
    } catch (e) {
      assert.ok(e instanceof GoChatError, String(e));
      code = e.name;
    }
    const serverAlone = left.has(v.error!) || left.has(v.name) || v.name === "send, a field of the server" || v.name === "send, unknown fields too large";
    assert.equal(code, serverAlone ? "" : v.error);
  });
}

interface SendVector {
  name: string;
  body: string;
  seq: string;
  message_id: string;
  sender_id: string;
  element: string;
}

for (const v of read("sends.json") as SendVector[]) {
  test(`send: ${v.name}`, () => {
    const s = decode(Send, fromHex(v.body));
    // The element is a field of DELIVER: its tag and length, then the message.
    const element = fromHex(v.element);
    assert.equal(element[0], 0x42);
    let at = 1;
    while (element[at++]! >= 0x80);
    const m = decode(Message, element.subarray(at));
    assert.equal(m.seq, BigInt(v.seq));
    assert.equal(m.messageId, BigInt(v.message_id));
    assert.equal(m.senderId, v.sender_id);
    const { conversationId: _c, toUserId: _t, seenSeq: _s, ...mine } = s;
    const { seq: _q, messageId: _m, senderId: _u, lastChangeSeq: _l, targetSeq: _g, ...theirs } = m;
    assert.deepEqual(theirs, mine);
    assert.deepEqual(decode(Send, encode(Send, s)), s);
  });
}

const ids = read("ids.json") as {
  conversations: { kind: string; parts: string[]; id: string }[];
  users: { hex: string; valid: boolean }[];
  client_msg_ids: { hex: string; uuid: string; valid: boolean; unix_ms: number }[];
  message_ids: { id: string; unix_ms: number }[];
};

test("ids", () => {
  const make: Record<string, (...p: string[]) => string> = { direct: directConversation as never, self: selfConversation, group: groupConversation, room: roomConversation };
  for (const c of ids.conversations) {
    assert.equal(make[c.kind]!(...c.parts), c.id);
    assert.equal(conversationKind(c.id), { direct: 1, group: 2, self: 3, room: 4 }[c.kind]);
  }
  for (const u of ids.users) {
    let valid: boolean;
    try {
      valid = validId(text(fromHex(u.hex)));
    } catch {
      valid = false;
    }
    assert.equal(valid, u.valid, u.hex);
  }
  for (const c of ids.client_msg_ids) {
    const b = fromHex(c.hex);
    assert.equal(toUuid(b), c.uuid);
    assert.deepEqual(fromUuid(c.uuid), b);
    assert.equal(validClientMsgId(b), c.valid);
    if (c.valid) assert.equal(uuidTime(b), c.unix_ms);
  }
  for (const m of ids.message_ids) assert.equal(messageTime(BigInt(m.id)), m.unix_ms);
});

test("hostile bytes end with typed errors", () => {
  const seed = Date.now();
  console.log(`seed ${seed}`);
  let x = seed >>> 0;
  const next = (n: number) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % n;
  const typed = (fn: () => unknown) => {
    try {
      fn();
    } catch (e) {
      assert.ok(e instanceof GoChatError, String((e as Error).stack));
    }
  };
  const good = frames.filter((v) => v.json).map((v) => fromHex(v.frame));
  for (let i = 0; i < 20_000; i++) {
    const b = good[next(good.length)]!.slice(0);
    for (let k = next(4); k >= 0; k--) b[next(b.length)] = next(256);
    const cut = next(3) === 0 ? b.subarray(0, next(b.length)) : b;
    typed(() => {
      const got = parseFrame(cut, 0, defaultMaxFrame);
      if (got && bodies.has(got.frame.type)) decode(bodies.get(got.frame.type)!, got.frame.body);
    });
  }
  assert.throws(() => encode(Send, { seenSeq: -1n }), GoChatError);
  assert.throws(() => encode(Send, { msgType: 2 ** 32 }), GoChatError);
  assert.equal(toHex(encodeFrame(FrameType.Ping)), "020d00");
});
