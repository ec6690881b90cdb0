// Messages that others see while they are being written.

import type { Target } from "./api.js";
import { GoChatError } from "./errors.js";
import { Code } from "./wire/codes.gen.js";
import { Reader, text, utf8, Writer } from "./wire/proto.js";

/** How many bytes of text a chunk carries at most. */
const maxChunk = 4000;

interface Signals {
  signal(to: Target, kind: number, data?: Uint8Array): void;
}

/**
 * A message that others see while it is being written, by a person or word by word by a program. Its chunks are never stored and
 * may be lost: when it is done, send the whole text. Gather before writing: some chunks a second are enough for anybody.
 */
export class Draft {
  private size = 0;

  /** Use Chat.draft. */
  constructor(
    private readonly signals: Signals,
    private readonly to: Target,
    private readonly number: bigint,
  ) {}

  /** Shows more text. */
  write(more: string): void {
    const bytes = utf8(more);
    for (let at = 0; at < bytes.length; ) {
      let n = Math.min(bytes.length - at, maxChunk);
      while (at + n < bytes.length && n > 0 && (bytes[at + n]! & 0xc0) === 0x80) n--; // not within a character
      this.chunk(bytes.subarray(at, at + n));
      at += n;
      this.size += n;
    }
  }

  /** Replaces all that was written from `offset` on, in bytes of UTF-8, by text. */
  rewrite(offset: number, by: string): void {
    this.size = Math.min(Math.max(offset, 0), this.size);
    if (by === "") this.chunk(new Uint8Array(0));
    else this.write(by);
  }

  private chunk(bytes: Uint8Array): void {
    this.signals.signal(this.to, 4, encodeChunk({ draft: this.number, offset: BigInt(this.size), text: bytes }));
  }
}

export interface Chunk {
  draft: bigint;
  offset: bigint;
  text: Uint8Array;
}

export function encodeChunk(c: Chunk): Uint8Array {
  const w = new Writer();
  w.uvarint64(c.draft);
  w.uvarint64(c.offset);
  w.raw(c.text);
  return w.bytes();
}

/** Reads the data of a signal of kind 4; throws a GoChatError. */
export function decodeChunk(data: Uint8Array): Chunk {
  const r = new Reader(data);
  const draft = r.uvarint();
  const offset = r.uvarint();
  const rest = r.take(data.length - r.at);
  text(rest, "a chunk");
  return { draft, offset, text: rest };
}

/** Drafts of others that are followed at once, and bytes of one. */
const maxDrafts = 64;
const maxDraftText = 64 << 10;
const draftLapse = 30_000;

/** What drafts tell: how one reads now. */
export type DraftHeard = (e: { conversation: string; user: string; device: string; text: string; done: boolean }) => void;

interface Followed {
  conversation: string;
  user: string;
  device: string;
  number: bigint;
  bytes: Uint8Array;
  text: string;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** The drafts of others. */
export class Drafts {
  private readonly all = new Map<string, Followed>();
  constructor(private readonly tell: DraftHeard) {}

  /** Takes in a chunk; throws a GoChatError if it can't be read. */
  arrived(conversation: string, user: string, device: string, data: Uint8Array): void {
    const c = decodeChunk(data);
    const key = `${conversation} ${device.length} ${device} ${user}`;
    let d = this.all.get(key);
    if (!d || d.number !== c.draft) {
      if (!d && this.all.size >= maxDrafts) this.end(this.all.keys().next().value!); // the oldest makes room
      clearTimeout(d?.timer);
      d = { conversation, user, device, number: c.draft, bytes: new Uint8Array(0), text: "", timer: undefined };
      this.all.set(key, d);
    }
    clearTimeout(d.timer);
    d.timer = setTimeout(() => this.end(key), draftLapse);
    if (c.offset > BigInt(d.bytes.length) || Number(c.offset) + c.text.length > maxDraftText) return; // beyond a hole, or too much
    const next = new Uint8Array(Number(c.offset) + c.text.length);
    next.set(d.bytes.subarray(0, Number(c.offset)));
    next.set(c.text, Number(c.offset));
    d.bytes = next;
    try {
      d.text = text(next);
    } catch (e) {
      if (e instanceof GoChatError && e.code === Code.InvalidUtf8) return; // cut within a character
      throw e;
    }
    this.tell({ conversation, user, device, text: d.text, done: false });
  }

  /** Ends the drafts of a sender whose message has come. */
  done(conversation: string, user: string): void {
    for (const [key, d] of this.all) if (d.conversation === conversation && d.user === user) this.end(key);
  }

  private end(key: string): void {
    const d = this.all.get(key);
    if (!d) return;
    clearTimeout(d.timer);
    this.all.delete(key);
    if (d.text !== "") this.tell({ conversation: d.conversation, user: d.user, device: d.device, text: d.text, done: true });
  }

  /** Forgets all, and tells nobody. */
  close(): void {
    for (const d of this.all.values()) clearTimeout(d.timer);
    this.all.clear();
  }
}
