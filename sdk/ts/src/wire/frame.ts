// Frames: length, type, flags, ids, body.

import { GoChatError } from "../errors.js";
import { Code } from "./codes.gen.js";
import { Writer } from "./proto.js";

export const FrameType = {
  Connect: 1, Connack: 2, Send: 3, SendAck: 4, Deliver: 5, RecvAck: 6, Sync: 7, Synced: 8, Signal: 9,
  Request: 10, Response: 11, Hint: 12, Ping: 13, Pong: 14, Drain: 15, Kick: 16, Error: 17,
} as const;

export const Flag = { RequestId: 0x01, TraceId: 0x02, Compressed: 0x04, NeverPull: 0x08, Resend: 0x10, More: 0x10, Interactive: 0x20 } as const;

/** Bytes of a frame (its length field aside) unless CONNACK says otherwise. */
export const defaultMaxFrame = 128 << 10;
/** What the four bytes of a length can say. */
export const hardMaxFrame = (1 << 28) - 1;

export interface Frame {
  type: number;
  flags: number;
  /** undefined: none */
  requestId: number | undefined;
  /** 16 bytes; undefined: none */
  traceId: Uint8Array | undefined;
  body: Uint8Array;
}

const empty = new Uint8Array(0);

/** Encodes a frame. Flags for the ids are set as the ids are there. */
export function encodeFrame(type: number, body: Uint8Array = empty, requestId?: number, flags = 0, traceId?: Uint8Array): Uint8Array {
  flags &= ~(Flag.RequestId | Flag.TraceId);
  const head = new Writer();
  head.byte(type);
  if (requestId !== undefined) flags |= Flag.RequestId;
  if (traceId !== undefined) flags |= Flag.TraceId;
  head.byte(flags);
  if (requestId !== undefined) head.uvarint(requestId);
  if (traceId !== undefined) head.raw(traceId);
  const w = new Writer();
  w.uvarint(head.length + body.length);
  w.raw(head.bytes());
  w.raw(body);
  return w.bytes();
}

const bad = (what: string) => new GoChatError(Code.BadFrame, what);

/**
 * Reads the frame that stands at `at` in buf. Returns it, and where the next one begins, or undefined if it isn't all there yet.
 * The body is a part of buf. Throws `bad_frame` or `frame_too_large`: the stream is lost then.
 */
export function parseFrame(buf: Uint8Array, at: number, max: number): { frame: Frame; next: number } | undefined {
  let length = 0;
  let i = 0;
  for (;; i++) {
    const b = buf[at + i];
    if (b === undefined) return undefined;
    if (i === 3 && b >= 0x80) throw new GoChatError(Code.FrameTooLarge);
    length += (b & 0x7f) * 2 ** (7 * i);
    if (b < 0x80) {
      if (i > 0 && b === 0) throw bad("a length that isn't in its shortest form");
      break;
    }
  }
  if (length > max) throw new GoChatError(Code.FrameTooLarge, `a frame of ${length} bytes, at most ${max}`);
  if (length < 2) throw bad(`a frame of ${length} bytes`);
  const start = at + i + 1;
  const end = start + length;
  if (end > buf.length) return undefined;
  const type = buf[start]!;
  const flags = buf[start + 1]!;
  let p = start + 2;
  if (flags & Flag.Compressed) throw bad("a compressed frame");
  let requestId: number | undefined;
  if (flags & Flag.RequestId) {
    requestId = 0;
    for (let k = 0; ; k++) {
      if (p >= end) throw bad("a request id that is cut off");
      const b = buf[p++]!;
      if (k === 4 && b > 0x0f) throw bad("a request id above 32 bits");
      requestId += (b & 0x7f) * 2 ** (7 * k);
      if (b < 0x80) {
        if (k > 0 && b === 0) throw bad("a request id that isn't in its shortest form");
        break;
      }
    }
  }
  let traceId: Uint8Array | undefined;
  if (flags & Flag.TraceId) {
    if (end - p < 16) throw bad("a trace id that is cut off");
    traceId = buf.subarray(p, (p += 16));
  }
  return { frame: { type, flags, requestId, traceId, body: buf.subarray(p, end) }, next: end };
}

/** Cuts a stream into frames. */
export class FrameReader {
  private buf: Uint8Array = empty;
  private at = 0;
  max = defaultMaxFrame;

  /** Takes bytes in; they are copied. */
  push(bytes: Uint8Array): void {
    const left = this.buf.length - this.at;
    const next = new Uint8Array(left + bytes.length);
    next.set(this.buf.subarray(this.at));
    next.set(bytes, left);
    this.buf = next;
    this.at = 0;
  }

  /** The next frame, if it is there. Its body stays good. Throws as parseFrame does. */
  next(): Frame | undefined {
    const got = parseFrame(this.buf, this.at, this.max);
    if (!got) return undefined;
    this.at = got.next;
    return got.frame;
  }
}
