// The part of protobuf's encoding that the wire's messages use, driven by schemas (wire.gen.ts).

import { GoChatError } from "../errors.js";
import { Code } from "./codes.gen.js";

export type Kind = "uint32" | "uint64" | "fixed64" | "string" | "bytes" | "bool" | "message";

export interface Field {
  readonly number: number;
  readonly name: string;
  readonly kind: Kind;
  readonly repeated?: boolean;
  readonly of?: () => Schema<unknown>;
}

/** How a message is written. `_` only carries the type. */
export interface Schema<T> {
  readonly name: string;
  readonly fields: readonly Field[];
  readonly _?: T;
}

/** What a message is made from: members that are left out are zero. */
export type Init<T> = {
  [K in keyof T]?: NonNullable<T[K]> extends Uint8Array ? T[K] : T[K] extends (infer E)[] ? (E extends object ? (E extends Uint8Array ? E : Init<E>) : E)[] : NonNullable<T[K]> extends object ? Init<NonNullable<T[K]>> : T[K];
};

// BOMs are text like any other here, and what isn't UTF-8 is refused.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

const malformed = (what: string) => new GoChatError(Code.BadRequest, what);

/** The bytes of a text. */
export const utf8 = (text: string): Uint8Array => encoder.encode(text);

/** The text of bytes; a GoChatError `invalid_utf8` if they are none. */
export function text(bytes: Uint8Array, what = "text"): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new GoChatError(Code.InvalidUtf8, `${what} isn't valid UTF-8`);
  }
}

/** A growing buffer. */
export class Writer {
  private buf = new Uint8Array(64);
  private at = 0;

  get length(): number {
    return this.at;
  }

  /** What was written; the writer isn't used afterwards. */
  bytes(): Uint8Array {
    return this.buf.subarray(0, this.at);
  }

  private room(n: number): void {
    if (this.at + n <= this.buf.length) return;
    const next = new Uint8Array(Math.max(this.buf.length * 2, this.at + n));
    next.set(this.buf.subarray(0, this.at));
    this.buf = next;
  }

  byte(b: number): void {
    this.room(1);
    this.buf[this.at++] = b;
  }

  raw(b: Uint8Array): void {
    this.room(b.length);
    this.buf.set(b, this.at);
    this.at += b.length;
  }

  /** A uvarint of a number below 2^32. */
  uvarint(n: number): void {
    while (n > 0x7f) {
      this.byte((n & 0x7f) | 0x80);
      n = Math.floor(n / 128);
    }
    this.byte(n);
  }

  uvarint64(n: bigint): void {
    while (n > 0x7fn) {
      this.byte(Number(n & 0x7fn) | 0x80);
      n >>= 7n;
    }
    this.byte(Number(n));
  }

  fixed64(n: bigint): void {
    this.room(8);
    new DataView(this.buf.buffer).setBigUint64(this.at, n, true);
    this.at += 8;
  }
}

/** A cursor over bytes that somebody else wrote. */
export class Reader {
  at = 0;
  constructor(readonly buf: Uint8Array) {}

  get done(): boolean {
    return this.at >= this.buf.length;
  }

  /** A uvarint of at most 64 bits. */
  uvarint(): bigint {
    let low = 0;
    for (let i = 0; i < 4; i++) { // the usual ones, without bigints in between
      const b = this.buf[this.at++];
      if (b === undefined) throw malformed("a number is cut off");
      low += (b & 0x7f) * 2 ** (7 * i);
      if (b < 0x80) return BigInt(low);
    }
    let n = BigInt(low);
    for (let shift = 28n; shift < 70n; shift += 7n) {
      const b = this.buf[this.at++];
      if (b === undefined) throw malformed("a number is cut off");
      n |= BigInt(b & 0x7f) << shift;
      if (b < 0x80) {
        if (n > 0xffffffffffffffffn) break;
        return n;
      }
    }
    throw malformed("a number of more than 64 bits");
  }

  take(n: number): Uint8Array {
    if (n > this.buf.length - this.at) throw malformed("a field is longer than what is there");
    const b = this.buf.subarray(this.at, this.at + n);
    this.at += n;
    return b;
  }

  lengthDelimited(): Uint8Array {
    const n = this.uvarint();
    if (n > BigInt(this.buf.length)) throw malformed("a field is longer than what is there");
    return this.take(Number(n));
  }

  fixed64(): bigint {
    const b = this.take(8);
    return new DataView(b.buffer, b.byteOffset, 8).getBigUint64(0, true);
  }

  skip(wireType: number): void {
    if (wireType === 0) this.uvarint();
    else if (wireType === 1) this.take(8);
    else if (wireType === 2) this.lengthDelimited();
    else if (wireType === 5) this.take(4);
    else throw malformed("a field of a type that isn't used");
  }
}

const wireTypes: Record<Kind, number> = { uint32: 0, uint64: 0, bool: 0, fixed64: 1, string: 2, bytes: 2, message: 2 };

type Loose = Record<string, unknown>;

/** Encodes a message. Members that are zero are left out, fields stand in ascending order. */
export function encode<T>(schema: Schema<T>, value: Init<T>): Uint8Array {
  const w = new Writer();
  write(w, schema as Schema<unknown>, value as Loose);
  return w.bytes();
}

function write(w: Writer, schema: Schema<unknown>, value: Loose): void {
  for (const f of schema.fields) {
    const v = value[f.name];
    if (v === undefined || v === null) continue;
    if (f.repeated) for (const one of v as unknown[]) writeField(w, f, one, true);
    else writeField(w, f, v, false);
  }
}

function writeField(w: Writer, f: Field, v: unknown, always: boolean): void {
  const tag = f.number * 8 + wireTypes[f.kind];
  const put = (b: Uint8Array) => {
    if (b.length === 0 && !always) return;
    w.uvarint(tag);
    w.uvarint(b.length);
    w.raw(b);
  };
  switch (f.kind) {
    case "uint32": {
      const n = v as number;
      if (!Number.isInteger(n) || n < 0 || n > 0xffffffff) throw malformed(`${f.name}: ${n} isn't a number below 2^32`);
      if (n === 0) return;
      w.uvarint(tag);
      w.uvarint(n);
      return;
    }
    case "uint64":
    case "fixed64": {
      const n = BigInt(v as bigint);
      if (n < 0n || n > 0xffffffffffffffffn) throw malformed(`${f.name}: ${n} isn't a number below 2^64`);
      if (n === 0n) return;
      w.uvarint(tag);
      if (f.kind === "uint64") w.uvarint64(n);
      else w.fixed64(n);
      return;
    }
    case "bool":
      if (!v) return;
      w.uvarint(tag);
      w.byte(1);
      return;
    case "string":
      return put(encoder.encode(v as string));
    case "bytes":
      return put(v as Uint8Array);
    case "message": {
      const inner = new Writer();
      write(inner, f.of!(), v as Loose);
      w.uvarint(tag);
      w.uvarint(inner.length);
      w.raw(inner.bytes());
    }
  }
}

interface Prepared {
  byNumber: Map<number, Field>;
}
const prepared = new WeakMap<Schema<unknown>, Prepared>();

function prepare(schema: Schema<unknown>): Prepared {
  let p = prepared.get(schema);
  if (!p) prepared.set(schema, (p = { byNumber: new Map(schema.fields.map((f) => [f.number, f])) }));
  return p;
}

function zero(f: Field): unknown {
  if (f.repeated) return [];
  switch (f.kind) {
    case "uint32":
      return 0;
    case "uint64":
    case "fixed64":
      return 0n;
    case "string":
      return "";
    case "bytes":
      return new Uint8Array(0);
    case "bool":
      return false;
    case "message":
      return undefined;
  }
}

/**
 * Decodes a message. Fields that the schema doesn't know are skipped; of a singular field the last one counts,
 * messages are merged. Throws a GoChatError, `bad_request` or `invalid_utf8`. Bytes are copies.
 */
export function decode<T>(schema: Schema<T>, bytes: Uint8Array): T {
  return read(schema as Schema<unknown>, bytes, undefined) as T;
}

function read(schema: Schema<unknown>, bytes: Uint8Array, into: Loose | undefined): Loose {
  const { byNumber } = prepare(schema);
  const v: Loose = into ?? {};
  if (!into) for (const f of schema.fields) v[f.name] = zero(f);
  const r = new Reader(bytes);
  while (!r.done) {
    const tag = r.uvarint();
    const number = tag >> 3n;
    const wireType = Number(tag & 7n);
    if (number === 0n || number > 0x1fffffffn) throw malformed(`${schema.name}: a field of number ${number}`);
    const f = byNumber.get(Number(number));
    if (!f) {
      r.skip(wireType);
      continue;
    }
    if (wireType !== wireTypes[f.kind]) throw malformed(`${schema.name}.${f.name} has another type`);
    const one = readField(r, f, schema, f.repeated ? undefined : (v[f.name] as Loose | undefined));
    if (f.repeated) (v[f.name] as unknown[]).push(one);
    else v[f.name] = one;
  }
  return v;
}

function readField(r: Reader, f: Field, schema: Schema<unknown>, before: Loose | undefined): unknown {
  switch (f.kind) {
    case "uint32": {
      const n = r.uvarint();
      if (n > 0xffffffffn) throw malformed(`${schema.name}.${f.name} is above 32 bits`);
      return Number(n);
    }
    case "uint64":
      return r.uvarint();
    case "fixed64":
      return r.fixed64();
    case "bool": {
      const n = r.uvarint();
      if (n > 1n) throw malformed(`${schema.name}.${f.name} is neither 0 nor 1`);
      return n === 1n;
    }
    case "string":
      return text(r.lengthDelimited(), `${schema.name}.${f.name}`);
    case "bytes":
      return r.lengthDelimited().slice();
    case "message":
      return read(f.of!(), r.lengthDelimited(), before);
  }
}
