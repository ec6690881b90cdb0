// A client with a connection of its own.

import type { Ack, AnyEvent, ConnectionState, Content, Message, Receipt, Target, Waiting } from "./api.js";
import { Chat, type CallOptions } from "./chat.js";
import { fill, type Config } from "./config.js";
import { Emitter } from "./events.js";
import { fromUuid, sameTail } from "./ids.js";
import { followPage } from "./page.js";
import { Receipts } from "./receipts.js";
import { Engine } from "./session/engine.js";
import type { RoomPlace } from "./session/rooms.js";
import type { Init } from "./wire/proto.js";
import type { Method, Synced } from "./wire/wire.gen.js";

/** Who hears of everything in the place of listeners: what shares a client with other tabs. */
export interface Taps {
  hear(e: AnyEvent): void | Promise<void>;
  settled(id: string, ack: Ack | undefined, error: Error | undefined): void;
}

/**
 * One device's client: it keeps a connection, sends what it was given until the server says that it is stored, and hands
 * the application every message of the user's conversations once and in order.
 *
 * ```ts
 * const client = await Client.open({ url: "wss://chat.example.com/ws", token, device, store: await IndexedDBStore.open("chat") });
 * client.on("message", (m) => console.log(m.sender, m.text));
 * client.start();
 * await client.send({ user: "bob" }, "hello");
 * ```
 */
export class Client extends Chat {
  protected override readonly emitter: Emitter;
  private readonly engine: Engine;
  private readonly receipts = new Receipts();
  private unfollow: (() => void) | undefined;
  private lastDraft = 0n;
  private closing: Promise<void> | undefined;

  private constructor(config: Config, taps?: Taps) {
    super();
    const cfg = fill(config);
    this.emitter = new Emitter(cfg.logger);
    this.engine = new Engine(cfg, {
      hear: taps ? taps.hear : (e) => this.emitter.emit(e),
      settled: (id, ack, error) => {
        this.receipts.settle(id, ack, error);
        taps?.settled(id, ack, error);
      },
    });
  }

  /** Reads the store and returns a client that isn't started yet: add your listeners first. It owns the store from here on, also if it fails. */
  static async open(config: Config, taps?: Taps): Promise<Client> {
    try {
      const c = new Client(config, taps);
      await c.engine.load();
      return c;
    } catch (e) {
      await config.store?.close();
      throw e;
    }
  }

  override start(): this {
    if (this.engine.cfg.followPage) this.unfollow ??= followPage(this.engine);
    this.engine.start();
    return this;
  }

  override close(): Promise<void> {
    return (this.closing ??= (async () => {
      this.unfollow?.();
      await this.engine.close();
      this.emitter.end();
    })());
  }

  override async connected(options?: CallOptions): Promise<void> {
    await this.engine.connected(options?.signal);
  }

  override get conversations() {
    return this.engine.list;
  }

  override get rooms(): string[] {
    return this.engine.rooms.list();
  }

  /** Has it enter the rooms that another client of the device was in; before start. */
  resumeRooms(places: RoomPlace[]): void {
    this.engine.rooms.resume(places);
  }

  override get user(): string {
    return this.engine.user;
  }

  override get state(): ConnectionState {
    return this.engine.state;
  }

  override get serverTime(): number {
    return this.engine.serverNow();
  }

  override get maxContent(): number {
    return this.engine.maxContent;
  }

  override call<Q, A>(method: Method<Q, A>, request: Init<Q>, options?: CallOptions): Promise<A> {
    return this.engine.call(method, request, options);
  }

  protected override range(conversation: string, from: bigint, limit: number, options?: CallOptions): Promise<Synced> {
    return this.engine.range(conversation, from, limit, options);
  }

  /** A SYNC of one range, from a seq on, at most `limit` messages (0: as many as the server likes). */
  rangeOf(conversation: string, from: bigint, limit: number): Promise<Synced> {
    return this.engine.range(conversation, from, limit);
  }

  /** The network, or the user, is back: connects now, or finds out whether the connection still lives. */
  nudge(): void {
    this.engine.nudge();
  }

  /** There is no network: gives the connection up. */
  networkGone(): void {
    this.engine.networkGone();
  }

  protected override async enqueue(to: Target, content: Content, seen: bigint | undefined): Promise<Receipt> {
    return this.receipts.open(await this.engine.outbox.add(to, content, seen));
  }

  /**
   * Like send, for who may ask twice: with the same tail (8 random bytes) a message is stored once. Answers with its ack if it has one already.
   */
  async sendOnce(to: Target, content: Content, seen: bigint | undefined, tail: Uint8Array): Promise<{ id: string; ack?: Ack }> {
    const waiting = this.engine.outbox.byTail(tail);
    if (waiting) return { id: waiting };
    const conversation = "user" in to ? this.direct(to.user) : to.conversation;
    for (const m of conversation ? await this.cached(conversation, 0n, 500) : []) {
      if (m.own && m.clientMsgId !== "" && sameTail(fromUuid(m.clientMsgId), tail)) return { id: m.clientMsgId, ack: { conversation, seq: m.seq, messageId: m.id, duplicate: true } };
    }
    return { id: await this.engine.outbox.add(to, content, seen, tail) };
  }

  /** What waits for the ack of a message that was sent before, perhaps by another run; undefined if it doesn't wait (any more). */
  receipt(id: string): Promise<Ack> | undefined {
    return this.receipts.find(id) ?? (this.engine.outbox.has(id) ? this.receipts.open(id).stored : undefined);
  }

  override cached(conversation: string, before = 0n, limit = 50): Promise<Message[]> {
    return this.engine.cached(conversation, before, limit);
  }

  override async outbox(): Promise<Waiting[]> {
    return this.engine.outbox.list();
  }

  override signal(to: Target, kind: number, data?: Uint8Array): void {
    if (this.engine.stoppedBy) throw this.engine.stoppedBy;
    this.engine.signal(to, kind, data);
  }

  override setBackground(background: boolean): void {
    this.engine.setBackground(background);
  }

  override draftNumber(): bigint {
    const now = BigInt(Math.floor(this.serverTime)); // above those of the last run
    this.lastDraft = now > this.lastDraft ? now : this.lastDraft + 1n;
    return this.lastDraft;
  }
}
