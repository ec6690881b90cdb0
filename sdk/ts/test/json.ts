// The JSON form of frames, as far as the golden vectors need it: a second way to the same bytes.

import { fromHex, fromUuid, messageTime, toHex, toUuid } from "../src/ids.js";
import { registry } from "../src/wire/codes.gen.js";
import { encodeFrame, Flag, FrameType, type Frame } from "../src/wire/frame.js";
import { decode, encode, type Field, type Schema } from "../src/wire/proto.js";
import * as wire from "../src/wire/wire.gen.js";

export type Json = { type: string; req_id?: number; trace_id?: string; data?: Obj } & Record<string, unknown>;
type Obj = Record<string, unknown>;

export const bodies = new Map<number, Schema<unknown>>([
  [FrameType.Connect, wire.Connect], [FrameType.Connack, wire.Connack], [FrameType.Send, wire.Send], [FrameType.SendAck, wire.SendAck], [FrameType.Deliver, wire.Deliver],
  [FrameType.RecvAck, wire.RecvAck], [FrameType.Sync, wire.Sync], [FrameType.Synced, wire.Synced], [FrameType.Signal, wire.Signal], [FrameType.Request, wire.Request],
  [FrameType.Response, wire.Response], [FrameType.Hint, wire.Hint], [FrameType.Drain, wire.Drain], [FrameType.Kick, wire.Kick], [FrameType.Error, wire.Error],
]);
const types: Record<string, number> = {
  connect: 1, connack: 2, send: 3, sendack: 4, message: 5, recvack: 6, sync: 7, synced: 8, signal: 9, request: 10, response: 11, hint: 12, ping: 13, pong: 14, drain: 15, kick: 16, error: 17,
};
const typeNames = new Map(Object.entries(types).map(([k, v]) => [v, k]));
const kinds = ["unknown", "phone", "tablet", "desktop", "web", "bot"];
const times = new Set(["server_time", "last_time", "expires_at"]);
// Members that are written though they are zero.
const always: Record<string, string[]> = {
  Message: ["seq", "msg_id", "sender_id", "msg_type", "content"], Send: ["msg_type", "content"], SendAck: ["seq", "msg_id"],
  Connack: ["version", "user_id", "server_time", "store_epoch", "heartbeat_seconds"], ConversationState: ["last_seq", "read_seq", "unread"], ConversationSeq: ["seq"], SyncRange: ["from_seq"],
  Synced: ["from_seq", "to_seq", "first_seq", "last_seq"], Drain: ["deadline_ms"], Kick: ["code"], Error: ["code"], HistoryResponse: ["first_seq", "last_seq"], ReadRequest: ["read_seq"],
  ReadResponse: ["read_seq", "unread"],
};

const jsonName = (f: Field) => {
  const n = f.name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
  return n === "message_id" ? "msg_id" : n === "to_user_id" ? "receiver_id" : n;
};

const base64 = (b: Uint8Array) => Buffer.from(b).toString("base64");

function value(f: Field, name: string, v: unknown): unknown {
  if (f.kind === "message") return object(f.of!(), v as Obj);
  if (name === "device_kind") return kinds[v as number] ?? v;
  if (f.kind === "uint64" || f.kind === "fixed64") return times.has(name) ? Number(v) : String(v);
  if (f.kind !== "bytes") return v;
  if (name === "conversation_id") return toHex(v as Uint8Array);
  return name === "client_msg_id" ? toUuid(v as Uint8Array) : base64(v as Uint8Array);
}

const isZero = (v: unknown) => v === undefined || v === 0 || v === 0n || v === "" || v === false || (v as { length?: number }).length === 0;

function object(schema: Schema<unknown>, v: Obj): Obj {
  const out: Obj = {};
  for (const f of schema.fields) {
    const name = jsonName(f);
    const x = v[f.name];
    if (isZero(x) && !always[schema.name]?.includes(name)) continue;
    out[name] = f.repeated ? (x as unknown[]).map((e) => value(f, name, e)) : value(f, name, x);
    if (name === "msg_id") out.timestamp = messageTime(x as bigint);
    if (name === "code") out.name = registry.get(x as number)?.name ?? `code_${x}`;
  }
  return out;
}

const methodByNumber = new Map(Object.values(wire.methods).map((m) => [m.number, m]));
const methodByName = new Map(Object.values(wire.methods).map((m) => [m.name, m]));

/** The JSON form of a frame: of a DELIVER as many objects as it has messages. */
export function jsonOf(f: Frame): Json[] {
  const head: Json = { type: typeNames.get(f.type)! };
  if (f.requestId !== undefined) head.req_id = f.requestId;
  if (f.traceId) head.trace_id = toHex(f.traceId);
  if (f.type === FrameType.Send && f.flags & Flag.Resend) head.resend = true;
  if (f.type === FrameType.Send && f.flags & Flag.Interactive) head.interactive = true;
  if ((f.type === FrameType.Response || f.type === FrameType.Synced) && f.flags & Flag.More) head.more = true;
  if (f.type === FrameType.Deliver && f.flags & Flag.NeverPull) head.never_pull = true;
  const schema = bodies.get(f.type);
  if (!schema) return [head];
  const v = decode(schema, f.body) as Obj;
  if (f.type === FrameType.Deliver) {
    const d = v as unknown as wire.Deliver;
    return d.messages.map((m) => {
      const data = object(wire.Message, m as unknown as Obj);
      data.conversation_id = toHex(d.conversationId);
      if (d.users.length === 2 && d.users.includes(m.senderId)) data.receiver_id = d.users.find((u) => u !== m.senderId) ?? m.senderId;
      else if (d.users.length > 0) data.users = d.users;
      return { ...head, data };
    });
  }
  if (f.type === FrameType.Request || f.type === FrameType.Response) {
    const { method, body } = v as unknown as wire.Request;
    const m = methodByNumber.get(method);
    if (!m) return [{ ...head, data: { method, ...(body.length > 0 ? { body: base64(body) } : {}) } }];
    const inner = f.type === FrameType.Request ? m.request : m.answer;
    const o = object(inner as Schema<unknown>, decode(inner as Schema<unknown>, body) as Obj);
    return [{ ...head, data: { method: m.name, ...(Object.keys(o).length > 0 ? { body: o } : {}) } }];
  }
  return [{ ...head, data: object(schema, v) }];
}

function member(f: Field, name: string, v: unknown): unknown {
  if (f.kind === "message") return build(f.of!(), v as Obj);
  if (name === "device_kind" && typeof v === "string") return kinds.indexOf(v);
  if (f.kind === "uint64" || f.kind === "fixed64") return BigInt(v as string);
  if (f.kind !== "bytes") return v;
  if (name === "conversation_id") return fromHex(v as string);
  return name === "client_msg_id" ? fromUuid(v as string) : new Uint8Array(Buffer.from(v as string, "base64"));
}

function build(schema: Schema<unknown>, o: Obj): Obj {
  const v: Obj = {};
  for (const f of schema.fields) {
    const name = jsonName(f);
    const x = o[name];
    if (x !== undefined) v[f.name] = f.repeated ? (x as unknown[]).map((e) => member(f, name, e)) : member(f, name, x);
  }
  return v;
}

/** The schema as servers write it: in messages their own fields come first. */
function serverOrder(s: Schema<unknown>): Schema<unknown> {
  const own = (f: Field) => f.number < 4 || (f.number >= 32 && f.number < 50);
  const fields = s.name === "Message" ? [...s.fields.filter(own), ...s.fields.filter((f) => !own(f))] : s.fields;
  return { name: s.name, fields: fields.map((f) => (f.of ? { ...f, of: () => serverOrder(f.of!()) } : f)) };
}

/** The frame of a JSON form: the objects of one DELIVER, or one object. */
export function framesOf(all: Json[]): Uint8Array {
  const j = all[0]!;
  const type = types[j.type]!;
  const flags = (j.resend || j.more ? Flag.Resend : 0) | (j.interactive ? Flag.Interactive : 0) | (j.never_pull ? Flag.NeverPull : 0);
  const trace = j.trace_id ? fromHex(j.trace_id) : undefined;
  const frame = (body?: Uint8Array) => encodeFrame(type, body, j.req_id, flags, trace);
  const schema = bodies.get(type);
  if (!schema) return frame();
  const data = j.data ?? {};
  if (type === FrameType.Deliver) {
    const users = (data.users as string[]) ?? (data.receiver_id ? [data.sender_id as string, data.receiver_id as string].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))) : []);
    return frame(encode(serverOrder(wire.Deliver), { conversationId: fromHex(data.conversation_id as string), users, messages: all.map((x) => build(wire.Message, x.data!)) } as never));
  }
  if (type === FrameType.Request || type === FrameType.Response) {
    const m = methodByName.get(data.method as string);
    const schemaOf = type === FrameType.Request ? m?.request : m?.answer;
    const body = schemaOf ? encode(serverOrder(schemaOf as Schema<unknown>), build(schemaOf as Schema<unknown>, (data.body as Obj) ?? {}) as never) : new Uint8Array(Buffer.from((data.body as string) ?? "", "base64"));
    const method = m?.number ?? (data.method as number);
    return frame(type === FrameType.Request ? encode(wire.Request, { method, body }) : encode(wire.Response, { method, body }));
  }
  return frame(encode(serverOrder(schema), build(schema, data) as never));
}
