// A server that says what a test wants, over a transport within the process.

import assert from "node:assert/strict";

import type { ConnectionHandler, Transport } from "../src/index.js";
import { fromHex, toHex } from "../src/ids.js";
import { encodeFrame, Flag, FrameReader, FrameType, type Frame } from "../src/wire/frame.js";
import { decode, encode, type Init, type Schema } from "../src/wire/proto.js";
import { Connack, Connect, Deliver, Error as ErrorBody, RecvAck, Request, Response, Send, SendAck, Sync, Synced, type Message, type Method } from "../src/wire/wire.gen.js";

const names = new Map(Object.entries(FrameType).map(([k, v]) => [v as number, k]));

/** One connection as the server sees it. */
export class Peer {
  private readonly reader = new FrameReader();
  private readonly frames: Frame[] = [];
  private waiting: (() => void) | undefined;
  closed = false;

  constructor(private readonly to: ConnectionHandler) {}

  took(bytes: Uint8Array): void {
    this.reader.push(bytes);
    for (let f; (f = this.reader.next()); ) {
      if (f.type === FrameType.Ping) {
        if (!this.deaf) this.put(FrameType.Pong);
      } else if (f.type === FrameType.RecvAck) for (const { conversationId, seq } of decode(RecvAck, f.body).acks) this.acked.set(toHex(conversationId), seq);
      else this.frames.push(f);
    }
    this.waiting?.();
  }

  /** PINGs aren't answered. */
  deaf = false;
  /** What RECVACKs told, by conversation. */
  readonly acked = new Map<string, bigint>();

  async untilAcked(conversation: string, seq: bigint): Promise<void> {
    while (this.acked.get(conversation) !== seq) await new Promise<void>((resolve) => (this.waiting = resolve));
  }

  private put(type: number, body?: Uint8Array, requestId?: number, flags = 0): void {
    const f = encodeFrame(type, body, requestId, flags);
    queueMicrotask(() => this.closed || this.to.data(f));
  }

  send<T>(type: number, schema: Schema<T>, m: Init<T>, requestId?: number, flags = 0): void {
    this.put(type, encode(schema, m), requestId, flags);
  }

  /** The next frame, which must be of this type. */
  async next(type: number): Promise<Frame> {
    while (this.frames.length === 0) {
      assert.ok(!this.closed, `the client closed the connection; waited for ${names.get(type)}`);
      await new Promise<void>((resolve) => (this.waiting = resolve));
    }
    const f = this.frames.shift()!;
    assert.equal(names.get(f.type), names.get(type));
    return f;
  }

  /** Takes in CONNECT and answers it. */
  async welcome(ack: Init<Connack> = {}): Promise<Connect> {
    const f = await this.next(FrameType.Connect);
    this.send(FrameType.Connack, Connack, { version: 1, userId: "me", serverTime: BigInt(Date.now()), storeEpoch: 1n, heartbeatSeconds: 60, resumeToken: "resume", syncMark: 5n, ...ack }, f.requestId);
    return decode(Connect, f.body);
  }

  async sendFrame(): Promise<{ f: Frame; s: Send; resend: boolean }> {
    const f = await this.next(FrameType.Send);
    return { f, s: decode(Send, f.body), resend: (f.flags & Flag.Resend) !== 0 };
  }

  /** The next frame, a SEND or a REQUEST. */
  async either(): Promise<{ f: Frame; send: Send | undefined }> {
    while (this.frames.length === 0) await new Promise<void>((resolve) => (this.waiting = resolve));
    const f = this.frames.shift()!;
    return { f, send: f.type === FrameType.Send ? decode(Send, f.body) : undefined };
  }

  ack(f: Frame, seq: bigint, more: Init<SendAck> = {}): void {
    this.send(FrameType.SendAck, SendAck, { seq, messageId: seq << 22n, ...more }, f.requestId);
  }

  refuse(f: Frame | undefined, code: number, retryAfterMs = 0): void {
    this.send(FrameType.Error, ErrorBody, { code, retryAfterMs }, f?.requestId);
  }

  deliver(conversation: string, ...messages: Init<Message>[]): void {
    this.send(FrameType.Deliver, Deliver, { conversationId: fromHex(conversation), users: ["me", "you"], messages });
  }

  /** A DELIVER of a room. */
  live(room: string, ...messages: Init<Message>[]): void {
    this.send(FrameType.Deliver, Deliver, { conversationId: fromHex(room), messages }, undefined, Flag.NeverPull);
  }

  async sync(): Promise<{ f: Frame; ranges: Sync["ranges"] }> {
    const f = await this.next(FrameType.Sync);
    return { f, ranges: decode(Sync, f.body).ranges };
  }

  synced(f: Frame, conversation: string, s: Init<Synced>, more = false): void {
    this.send(FrameType.Synced, Synced, { conversationId: fromHex(conversation), ...s }, f.requestId, more ? Flag.More : 0);
  }

  async request<Q, A>(method: Method<Q, A>): Promise<{ f: Frame; q: Q }> {
    const f = await this.next(FrameType.Request);
    const r = decode(Request, f.body);
    assert.equal(r.method, method.number);
    return { f, q: decode(method.request, r.body) };
  }

  answer<Q, A>(f: Frame, method: Method<Q, A>, a: Init<A>): void {
    this.send(FrameType.Response, Response, { method: method.number, body: encode(method.answer, a) }, f.requestId);
  }

  /** Ends the connection without a word. */
  cut(): void {
    this.end();
    this.to.closed(new Error("cut"));
  }

  end(): void {
    this.closed = true;
    this.waiting?.();
  }
}

/** Where clients connect. */
export class Fake {
  private readonly peers: Peer[] = [];
  private waiting: (() => void) | undefined;
  /** Addresses that were tried. */
  readonly addresses: string[] = [];
  /** Connecting fails. */
  unreachable = false;

  readonly transport: Transport = async (address, handler) => {
    this.addresses.push(address);
    if (this.unreachable) throw new Error("unreachable");
    const p = new Peer(handler);
    this.peers.push(p);
    queueMicrotask(() => this.waiting?.());
    return {
      send: (frame) => {
        const copy = frame.slice();
        queueMicrotask(() => p.closed || p.took(copy));
      },
      buffered: 0,
      close: () => {
        queueMicrotask(() => {
          if (p.closed) return;
          p.end();
          handler.closed(new Error("closed"));
        });
      },
    };
  };

  /** The next connection. */
  async peer(): Promise<Peer> {
    while (this.peers.length === 0) await new Promise<void>((resolve) => (this.waiting = resolve));
    return this.peers.shift()!;
  }
}

/** A message of a timeline. */
export const message = (seq: bigint, content: string, senderId = "you"): Init<Message> => ({ seq, messageId: seq << 22n, senderId, msgType: 1, content });
