// One connection for all tabs of a browser: the tab that holds a lock has the client, the others talk to it over a channel. When it
// goes the lock, and with it the connection, falls to another one, which goes on from the store that they share.

import type { Ack, AnyEvent, ConnectionState, Content, Message, Receipt, Target, Waiting } from "../api.js";
import { Chat, type CallOptions } from "../chat.js";
import { Client } from "../client.js";
import { fill, type Config, type Filled } from "../config.js";
import { asError, ClosedError, StoppedError } from "../errors.js";
import { Emitter } from "../events.js";
import { ConversationKind, conversationKind, random, toHex } from "../ids.js";
import { ConversationList } from "../list.js";
import { followPage } from "../page.js";
import { Receipts } from "../receipts.js";
import type { RoomPlace } from "../session/rooms.js";
import type { Store } from "../store/store.js";
import type { Init } from "../wire/proto.js";
import { methods, type Method, type Synced } from "../wire/wire.gen.js";
import { packError, packEvent, unpackError, unpackEvent, type Answers, type Ask, type Standing, type TabMessage } from "./messages.js";

/** A Config whose store is opened by the tab that gets the connection. */
export interface SharedConfig extends Omit<Config, "store"> {
  /** Must open the same store in every tab: an IndexedDBStore. Default: memory. */
  store?: () => Store | Promise<Store>;
  tabs?: TabsOptions;
}

/** How tabs find each other. */
export interface TabsOptions {
  /** false: this tab has a connection of its own. */
  share?: boolean;
  /** Default: navigator.locks. */
  locks?: Pick<LockManager, "request">;
  /** Default: BroadcastChannel. */
  channel?: (name: string) => BroadcastChannel;
}

/**
 * Opens a client that shares its connection with the other tabs of the same device. Add your listeners, then start it. In browsers without Web Locks or
 * BroadcastChannel (and pages that came over plain HTTP from another host) it has its own connection: the tab that came last gets it, the
 * others get `stopped` with `replaced`.
 */
export async function open(config: SharedConfig): Promise<Chat> {
  return new SharedChat(config);
}

/** Own messages of a room whose repetition is known. */
const maxOwn = 256;

type Pending = { ask: Ask; resolve: (value: never) => void; reject: (e: Error) => void };

const byNumber = new Map<number, Method<unknown, unknown>>(Object.values(methods).map((m) => [m.number, m as Method<unknown, unknown>]));

class SharedChat extends Chat {
  override readonly conversations = new ConversationList();
  protected override readonly emitter: Emitter;
  private readonly cfg: Filled;
  private readonly tab = toHex(random(8));
  private readonly receipts = new Receipts();
  private channel: BroadcastChannel | undefined;
  /** Here, if this tab has the connection. */
  private client: Client | undefined;
  private standing: Standing = { user: "", state: "idle", offset: 0, maxContent: 0 };
  /** The last seq told of each conversation: after a change of tabs some come again. */
  private readonly told = new Map<string, bigint>();
  /** The rooms that the device is in, and how far each was told. */
  private readonly halls = new Map<string, { applied: bigint; own: Set<bigint> }>();
  private heard: Promise<void> = Promise.resolve();
  /** Asked of another tab, and to be asked again if that goes. */
  private readonly pending = new Map<number, Pending>();
  private asked = 0;
  private visible = true;
  private readonly visibleTabs = new Map<string, boolean>();
  private lastDraft = 0n;
  private started = false;
  private readonly ending = new AbortController();
  private leading: Promise<unknown> | undefined;
  private unfollow: (() => void) | undefined;

  constructor(private readonly config: SharedConfig) {
    super();
    this.cfg = fill({ ...config, store: undefined });
    this.emitter = new Emitter(this.cfg.logger);
  }

  override start(): this {
    if (this.started) return this;
    this.started = true;
    const { share = true, locks = globalThis.navigator?.locks, channel = (n: string) => new BroadcastChannel(n) } = this.config.tabs ?? {};
    const name = `gochat ${this.cfg.url} ${this.cfg.device}`;
    if (this.cfg.followPage) this.unfollow = followPage({ setBackground: (b) => this.setBackground(b), nudge: () => this.client?.nudge(), networkGone: () => this.client?.networkGone() });
    if (!share || !locks || (!this.config.tabs?.channel && typeof BroadcastChannel === "undefined")) {
      this.leading = this.lead();
      return this;
    }
    this.channel = channel(name);
    this.channel.onmessage = (e: MessageEvent<TabMessage>) => this.said(e.data);
    this.leading = locks.request(name, { signal: this.ending.signal }, () => this.lead()).catch((e) => {
      if (!this.ending.signal.aborted) this.fatal(asError(e));
    });
    this.say({ t: "hello", from: this.tab, visible: this.visible });
    return this;
  }

  private say(m: TabMessage): void {
    if (!this.ending.signal.aborted || m.t === "bye") this.channel?.postMessage(m);
  }

  /** Has the connection until the end. */
  private async lead(): Promise<void> {
    try {
      const store = await this.config.store?.();
      const client = await Client.open({ ...this.config, store, followPage: false }, {
        hear: (e) => {
          this.say({ t: "event", event: packEvent(e) });
          if (e.type === "connected") this.tellStanding();
          return this.hear(e);
        },
        settled: (id, ack, error) => {
          this.say({ t: "settled", id, ack, error: error && packError(error) });
          this.receipts.settle(id, ack, error);
        },
      });
      await this.heard; // what the tab before has still told
      this.conversations.user(client.user);
      if (this.told.size === 0 && this.conversations.all().length === 0) this.conversations.restore(client.conversations.snapshot());
      await this.catchUp(client);
      client.resumeRooms(this.places());
      this.client = client;
      if (this.ending.signal.aborted) return await client.close();
      this.tellStanding();
      this.showBackground();
      client.start();
      this.say({ t: "leader" });
      for (const [id, p] of this.pending) {
        this.pending.delete(id);
        this.answer(client, p.ask).then(p.resolve as (v: unknown) => void, p.reject);
      }
    } catch (e) {
      this.fatal(asError(e));
      return;
    }
    await new Promise<void>((resolve) => this.ending.signal.addEventListener("abort", () => resolve()));
    await this.client.close();
  }

  /** Tells what the tab before had taken in and could not tell any more. */
  private async catchUp(client: Client): Promise<void> {
    for (const [conversation, seq] of [...this.told]) {
      for (const m of await client.cached(conversation, 0n, 100)) if (m.seq > seq) await this.hear({ type: "message", data: m });
    }
  }

  private fatal(error: Error): void {
    const stopped = new StoppedError(error);
    this.standing.state = "stopped";
    for (const p of this.pending.values()) p.reject(stopped);
    this.pending.clear();
    this.receipts.fail(stopped);
    void this.hear({ type: "stopped", data: { error } });
  }

  /** Takes in an event, and hands it to the listeners. */
  private hear(e: AnyEvent): void | Promise<void> {
    if (this.halls.size > 0 && this.repeated(e)) return;
    if (e.type === "room" && !this.halls.has(e.data.conversation)) this.halls.set(e.data.conversation, { applied: e.data.lastSeq, own: new Set() });
    else if (e.type === "message" && conversationKind(e.data.conversation) !== ConversationKind.Room) {
      const { conversation, seq } = e.data;
      if (seq <= (this.told.get(conversation) ?? 0n)) return;
      this.told.set(conversation, seq);
    } else if (e.type === "resynced") {
      this.told.clear();
      for (const h of this.halls.values()) {
        h.applied = 0n;
        h.own.clear();
      }
    } else if (e.type === "connected") this.standing.user = e.data.user;
    else if (e.type === "state") this.standing.state = e.data.state;
    this.conversations.apply(e);
    return this.emitter.emit(e);
  }

  /** Notes what an event tells of a room. Returns whether it is an own message that was told before. */
  private repeated(e: AnyEvent): boolean {
    const h = "conversation" in e.data ? this.halls.get(e.data.conversation) : undefined;
    if (!h) return false;
    const reach = (seq: bigint) => (h.applied = seq > h.applied ? seq : h.applied);
    if (e.type === "room") reach(e.data.lastSeq);
    else if (e.type === "leftOut") reach(e.data.upTo);
    else if (e.type === "roomLeft") this.halls.delete(e.data.conversation);
    else if (e.type === "message" && !e.data.own) reach(e.data.seq);
    else if (e.type === "message") { // it may come before others, and again if its ack was lost with the tab that had the connection
      if (h.own.has(e.data.seq)) return true;
      h.own.add(e.data.seq);
      if (h.own.size > maxOwn) h.own.delete(h.own.values().next().value!);
    }
    return false;
  }

  private places(): RoomPlace[] {
    return [...this.halls].map(([conversation, h]) => ({ conversation, applied: h.applied, own: [...h.own].filter((seq) => seq > h.applied) }));
  }

  /** Does something behind the events that another tab has told before. */
  private behind(fn: () => void | Promise<void>): void {
    this.heard = this.heard.then(fn).catch((e) => this.cfg.logger.error("taking in what another tab told", e));
  }

  /** Acts on what another tab says. */
  private said(m: TabMessage): void {
    const client = this.client;
    switch (m.t) {
      case "event":
        return this.behind(() => this.hear(unpackEvent(m.event)));
      case "settled":
        return this.receipts.settle(m.id, m.ack, m.error && unpackError(m.error));
      case "standing":
        return this.behind(() => this.stand(m.standing));
      case "welcome":
        if (m.to !== this.tab) return;
        return this.behind(async () => {
          this.conversations.user(m.standing.user);
          this.conversations.restore(m.list);
          for (const [id, seq] of m.told) if (seq > (this.told.get(id) ?? 0n)) this.told.set(id, seq);
          for (const p of m.rooms) if (!this.halls.has(p.conversation)) this.halls.set(p.conversation, { applied: p.applied, own: new Set(p.own) });
          await this.stand(m.standing);
        });
      case "answer": {
        if (m.to !== this.tab) return;
        const p = this.pending.get(m.id);
        this.pending.delete(m.id);
        if (m.error) p?.reject(unpackError(m.error));
        else p?.resolve(m.value as never);
        return;
      }
      case "leader": // the one before is gone, and with it what it was asked
        this.visibleTabs.clear();
        this.say({ t: "hello", from: this.tab, visible: this.visible });
        for (const [id, p] of this.pending) this.say({ t: "ask", from: this.tab, id, ask: p.ask });
        return;
    }
    if (!client) return;
    switch (m.t) {
      case "hello":
        this.visibleTabs.set(m.from, m.visible);
        this.showBackground();
        this.say({ t: "welcome", to: m.from, standing: this.now(), list: client.conversations.snapshot(), told: this.told, rooms: this.places() });
        return;
      case "visible":
        this.visibleTabs.set(m.from, m.visible);
        if (m.visible) client.nudge();
        return this.showBackground();
      case "bye":
        this.visibleTabs.delete(m.from);
        return this.showBackground();
      case "signal":
        try {
          client.signal(m.to, m.kind, m.data);
        } catch (e) {
          this.cfg.logger.warn("a signal of another tab", e);
        }
        return;
      case "ask":
        this.answer(client, m.ask).then(
          (value) => this.say({ t: "answer", to: m.from, id: m.id, value }),
          (e) => this.say({ t: "answer", to: m.from, id: m.id, error: packError(asError(e)) }),
        );
    }
  }

  private async answer(c: Client, a: Ask): Promise<unknown> {
    switch (a.op) {
      case "call":
        return c.call(byNumber.get(a.method)!, a.request);
      case "range":
        return c.rangeOf(a.conversation, a.from, a.limit);
      case "send":
        return c.sendOnce(a.to, a.content, a.seen, a.tail);
      case "cached":
        return c.cached(a.conversation, a.before, a.limit);
      case "outbox":
        return c.outbox();
      case "connected":
        return c.connected();
    }
  }

  private now(): Standing {
    return { user: this.client!.user, state: this.client!.state, offset: this.client!.serverTime - Date.now(), maxContent: this.client!.maxContent };
  }

  private tellStanding(): void {
    if (!this.client) return;
    this.standing = this.now();
    this.say({ t: "standing", standing: this.standing });
  }

  private stand(s: Standing): void | Promise<void> {
    const before = this.standing.state;
    this.standing = s;
    if (before !== s.state) return this.emitter.emit({ type: "state", data: { state: s.state } });
  }

  private showBackground(): void {
    this.client?.setBackground(!this.visible && ![...this.visibleTabs.values()].some((v) => v));
  }

  /** Asks the tab that has the connection; waits for one if there is none. */
  private ask<A extends Ask>(ask: A, options?: CallOptions): Promise<Answers[A["op"]]> {
    const signal = options?.signal;
    if (this.ending.signal.aborted) return Promise.reject(new ClosedError());
    if (signal?.aborted) return Promise.reject(asError(signal.reason));
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(asError(signal.reason)));
      if (this.client) return void this.answer(this.client, ask).then(resolve as (v: unknown) => void, reject);
      const id = ++this.asked;
      signal?.addEventListener("abort", () => this.pending.delete(id));
      this.pending.set(id, { ask, resolve: resolve as (v: never) => void, reject });
      this.say({ t: "ask", from: this.tab, id, ask });
    });
  }

  override get rooms(): string[] {
    return this.client?.rooms ?? [...this.halls.keys()];
  }

  override get user(): string {
    return this.client?.user || this.standing.user;
  }

  override get state(): ConnectionState {
    return this.client?.state ?? this.standing.state;
  }

  override get serverTime(): number {
    return this.client?.serverTime ?? Date.now() + this.standing.offset;
  }

  override get maxContent(): number {
    return this.client?.maxContent || this.standing.maxContent || 0;
  }

  override async connected(options?: CallOptions): Promise<void> {
    await this.ask({ op: "connected" }, options);
  }

  override call<Q, A>(method: Method<Q, A>, request: Init<Q>, options?: CallOptions): Promise<A> {
    return this.ask({ op: "call", method: method.number, request: request as object }, options) as Promise<A>;
  }

  protected override range(conversation: string, from: bigint, limit: number, options?: CallOptions): Promise<Synced> {
    return this.ask({ op: "range", conversation, from, limit }, options);
  }

  protected override async enqueue(to: Target, content: Content, seen: bigint | undefined): Promise<Receipt> {
    const { id, ack } = await this.ask({ op: "send", to, content, seen, tail: random(8) });
    const r = this.receipts.open(id);
    if (ack) this.receipts.settle(id, ack as Ack, undefined);
    return r;
  }

  override cached(conversation: string, before = 0n, limit = 50): Promise<Message[]> {
    return this.ask({ op: "cached", conversation, before, limit });
  }

  override outbox(): Promise<Waiting[]> {
    return this.ask({ op: "outbox" });
  }

  override signal(to: Target, kind: number, data?: Uint8Array): void {
    if (this.ending.signal.aborted) throw new ClosedError();
    if (this.client) this.client.signal(to, kind, data);
    else this.say({ t: "signal", to, kind, data });
  }

  override setBackground(background: boolean): void {
    this.visible = !background;
    if (this.client) this.showBackground();
    else this.say({ t: "visible", from: this.tab, visible: this.visible });
  }

  override draftNumber(): bigint {
    const now = BigInt(Math.floor(this.serverTime));
    this.lastDraft = now > this.lastDraft ? now : this.lastDraft + 1n;
    return this.lastDraft;
  }

  override async close(): Promise<void> {
    if (!this.ending.signal.aborted) {
      this.unfollow?.();
      this.say({ t: "bye", from: this.tab });
      this.ending.abort();
      for (const p of this.pending.values()) p.reject(new ClosedError());
      this.pending.clear();
    }
    await this.leading;
    await this.heard;
    this.channel?.close();
    this.receipts.fail(new ClosedError());
    this.emitter.end();
  }
}
