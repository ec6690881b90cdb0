// Identifiers. Conversation ids are 32 lower-case hexadecimal digits here, client message ids UUIDs, message ids decimal digits.

import { sha256 } from "./sha256.js";
import { utf8 } from "./wire/proto.js";

export const ConversationKind = { Direct: 1, Group: 2, Self: 3, Room: 4 } as const;

const digits = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"));

export function toHex(bytes: Uint8Array): string {
  let s = "";
  for (const b of bytes) s += digits[b];
  return s;
}

/** The bytes of hexadecimal digits; throws a TypeError if they are none. */
export function fromHex(hex: string): Uint8Array {
  if (hex.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(hex)) throw new TypeError(`not hexadecimal: ${hex.slice(0, 80)}`);
  const out = new Uint8Array(hex.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  return out;
}

/** Compares by bytes, -1, 0 or 1. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length && i < b.length; i++) if (a[i] !== b[i]) return a[i]! < b[i]! ? -1 : 1;
  return Math.sign(a.length - b.length);
}

function derived(kind: number, ...parts: Uint8Array[]): string {
  const size = parts.reduce((n, p) => n + 2 + p.length, 1);
  const b = new Uint8Array(size);
  b[0] = kind;
  let at = 1;
  for (const p of parts) {
    b[at++] = p.length >> 8;
    b[at++] = p.length & 0xff;
    b.set(p, at);
    at += p.length;
  }
  return toHex(Uint8Array.of(kind)) + toHex(sha256(b).subarray(0, 15));
}

/** The id of the direct conversation of two users. */
export function directConversation(a: string, b: string): string {
  const [x, y] = [utf8(a), utf8(b)];
  return compareBytes(x, y) <= 0 ? derived(ConversationKind.Direct, x, y) : derived(ConversationKind.Direct, y, x);
}

/** The id of a user's own timeline. */
export const selfConversation = (user: string): string => derived(ConversationKind.Self, utf8(user));

/** The id of a group that an integrator names. */
export const groupConversation = (key: string): string => derived(ConversationKind.Group, utf8(key));

/** The id of a room. */
export const roomConversation = (name: string): string => derived(ConversationKind.Room, utf8(name));

/** One of ConversationKind, or 0 if it isn't a conversation id. */
export function conversationKind(conversation: string): number {
  if (!/^0[1-4][0-9a-f]{30}$/.test(conversation)) return 0;
  return Number(conversation[1]);
}

/** Whether a user or device id has 1 to 64 bytes of UTF-8 without control characters. */
export function validId(id: string): boolean {
  if (id === "" || /\p{Cc}/u.test(id) || /\p{Cs}/u.test(id)) return false;
  return utf8(id).length <= 64;
}

/** A random id for this installation: keep it, and give it to each Client of it. */
export function newDeviceId(): string {
  return toHex(crypto.getRandomValues(new Uint8Array(12)));
}

/** Random bytes. */
export const random = (n: number): Uint8Array => crypto.getRandomValues(new Uint8Array(n));

export function toUuid(b: Uint8Array): string {
  const h = toHex(b);
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
}

/** The 16 bytes of a UUID; throws a TypeError if it is none. */
export function fromUuid(uuid: string): Uint8Array {
  if (!/^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(uuid)) throw new TypeError(`not a UUID: ${uuid.slice(0, 80)}`);
  return fromHex(uuid.replaceAll("-", ""));
}

/** Whether 16 bytes are a UUIDv7. */
export const validClientMsgId = (b: Uint8Array): boolean => b.length === 16 && b[6]! >> 4 === 7 && b[8]! >> 6 === 2;

/** Whether an id was made with this tail; the two bits of the variant aside. */
export function sameTail(id: Uint8Array, tail: Uint8Array): boolean {
  return (id[8]! & 0x3f) === (tail[0]! & 0x3f) && compareBytes(id.subarray(9), tail.subarray(1, 8)) === 0;
}

/** The Unix milliseconds in a client message id. */
export function uuidTime(b: Uint8Array): number {
  let n = 0;
  for (let i = 0; i < 6; i++) n = n * 256 + b[i]!;
  return n;
}

/** The Unix milliseconds in a message id. */
export const messageTime = (messageId: bigint): number => Number(messageId >> 22n) + 1704067200000;

/** Makes client message ids that grow: the 12 bits behind the milliseconds count. */
export class IdSource {
  private last = new Uint8Array(16);

  /** Later ids are above this one. */
  above(id: Uint8Array): void {
    if (compareBytes(id, this.last) > 0) this.last = id.slice();
  }

  /** An id at `now`, in Unix milliseconds of the server. `tail`: its last 8 bytes, random if left out. */
  next(now: number, tail: Uint8Array = random(8)): Uint8Array {
    // By how much ids may run ahead of the server's clock, so that they grow though a clock was set back: half of what a server takes.
    const maxAhead = 30_000;
    now = Math.floor(now);
    let count = 0;
    const before = uuidTime(this.last);
    if (now <= before && before - now < maxAhead) {
      now = before;
      count = (((this.last[6]! & 0x0f) << 8) | this.last[7]!) + 1;
      if (count > 0xfff) {
        now++;
        count = 0;
      }
    }
    const id = new Uint8Array(16);
    for (let i = 5, n = now; i >= 0; i--, n = Math.floor(n / 256)) id[i] = n % 256;
    id[6] = 0x70 | (count >> 8);
    id[7] = count & 0xff;
    id.set(tail.subarray(0, 8), 8);
    id[8] = 0x80 | (id[8]! & 0x3f);
    this.last = id;
    return id.slice();
  }
}
