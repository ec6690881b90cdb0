// The state machine of a client: connects again and again, and acts on frames.

import type { Ack, AnyEvent, ConnectionState, Logger, Message, Target } from "../api.js";
import type { CallOptions } from "../chat.js";
import type { Filled } from "../config.js";
import { conversationBytes } from "../convert.js";
import { Drafts } from "../draft.js";
import { asError, ClosedError, ConnectionError, GoChatError, StoppedError } from "../errors.js";
import { ConversationList } from "../list.js";
import { noSession, type SessionState, type Store } from "../store/store.js";
import { Code } from "../wire/codes.gen.js";
import { Flag, FrameType, type Frame } from "../wire/frame.js";
import { decode, encode, type Init } from "../wire/proto.js";
import { Drain, Hint, methods, Request, Response, Signal, type Method, type Synced } from "../wire/wire.gen.js";
import { Dispatch } from "./dispatch.js";
import { Heartbeat } from "./heartbeat.js";
import { Inbox } from "./inbox.js";
import { Dismissal, errorOf, farewell, Link, type Waiter } from "./link.js";
import { leave, leaveDue, open, Strays, type Opened } from "./move.js";
import { Outbox } from "./outbox.js";
import { jitter } from "./pace.js";
import { Rooms } from "./rooms.js";
import { Saver } from "./saver.js";
import { Timelines, wireConversation } from "./timelines.js";

/** How much may wait for the transport before signals are dropped, in bytes. */
const maxUnwritten = 1 << 20;

const lost = new ConnectionError("the connection was lost");

export interface Hooks {
  hear(e: AnyEvent): void | Promise<void>;
  settled(id: string, ack: Ack | undefined, error: Error | undefined): void;
}

export class Engine {
  readonly log: Logger;
  readonly store: Store;
  user = "";
  session: SessionState = noSession();
  link: Link | undefined;
  stoppedBy: Error | undefined;
  state: ConnectionState = "idle";
  background = false;
  /** What the server said last; 0: it has said nothing. */
  maxContent = 0;
  readonly beat = new Heartbeat();
  readonly strays = new Strays();
  readonly list = new ConversationList();
  readonly outbox: Outbox;
  readonly timelines = new Timelines(this);
  readonly inbox = new Inbox(this);
  readonly rooms = new Rooms(this);
  readonly dispatch: Dispatch;
  readonly saver: Saver;
  readonly drafts: Drafts;

  private offset = 0; // the server's clock less ours
  private closed = false;
  private readonly closers = new Set<() => void>();
  private waiters: { resolve: (l: Link) => void; reject: (e: Error) => void }[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private woken = false;
  private cutPause: (() => void) | undefined;
  private running: Promise<void> | undefined;

  constructor(readonly cfg: Filled, hooks: Hooks) {
    this.log = cfg.logger;
    this.store = cfg.store;
    this.outbox = new Outbox(this, hooks.settled);
    this.saver = new Saver(this.store, (c) => this.list.stored(c), this.log);
    this.dispatch = new Dispatch(this, (e) => {
      const changed = this.list.apply(e);
      if (changed) this.saver.list(changed);
      return hooks.hear(e);
    });
    this.drafts = new Drafts((d) => this.dispatch.push("draft", d));
  }

  async load(): Promise<void> {
    const st = await this.store.load();
    this.session = st.session;
    this.user = st.session.user;
    this.list.user(this.user);
    this.list.restore(st.listed);
    this.timelines.load(st.cursors);
    this.outbox.load(st.outbox);
  }

  start(): void {
    this.running ??= this.run();
  }

  /** Messages that are in the store or on their way there. */
  async cached(conversation: string, before: bigint, limit: number): Promise<Message[]> {
    const fresh = this.saver.unsaved(conversation).filter((m) => before === 0n || m.seq < before);
    const stored = await this.store.messages(conversation, before, limit);
    const last = stored.at(-1)?.seq ?? 0n;
    return limit > 0 ? [...stored, ...fresh.filter((m) => m.seq > last)].slice(-limit) : [];
  }

  async close(): Promise<void> {
    this.stop(new ClosedError());
    this.closed = true;
    for (const fn of [...this.closers]) fn();
    this.cutPause?.();
    if (this.link) {
      this.timelines.writeRecvAcks(this.link);
      this.link.giveUp("the client is closed");
    }
    await this.running;
    this.inbox.close();
    this.rooms.close();
    this.drafts.close();
    await this.dispatch.idle();
    await this.saver.idle();
    await this.store.close();
  }

  /** Calls fn when the client is closed; returns how to take that back. */
  onClose(fn: () => void): () => void {
    if (this.closed) fn();
    this.closers.add(fn);
    return () => this.closers.delete(fn);
  }

  serverNow(): number {
    return Date.now() + this.offset;
  }

  setSession(s: Partial<SessionState>): void {
    this.session = { ...this.session, ...s };
    this.saver.setSession(this.session);
  }

  /** Every call and receipt fails with err from here on. */
  private stop(err: Error): void {
    if (this.stoppedBy) return;
    this.stoppedBy = err;
    for (const w of this.waiters.splice(0)) w.reject(err);
    this.outbox.stop(err);
    this.enter("stopped");
  }

  private enter(state: ConnectionState): void {
    if (this.state === state || this.state === "stopped") return;
    this.state = state;
    this.dispatch.push("state", { state });
  }

  /** Resolves with the connection as soon as there is one. */
  connected(signal?: AbortSignal): Promise<Link> {
    if (this.stoppedBy) return Promise.reject(this.stoppedBy);
    if (signal?.aborted) return Promise.reject(asError(signal.reason));
    if (this.link) return Promise.resolve(this.link);
    return new Promise((resolve, reject) => {
      const w = { resolve, reject };
      this.waiters.push(w);
      signal?.addEventListener("abort", () => {
        this.waiters = this.waiters.filter((x) => x !== w);
        reject(asError(signal.reason));
      });
    });
  }

  /** Where to connect. While `url` fails, which may be the server that has left, those that it named are tried in turn with it. */
  private next(failures: number, others: string[]): string {
    return failures % 2 === 0 || others.length === 0 ? this.cfg.url : others[Math.floor(failures / 2) % others.length]!;
  }

  private async run(): Promise<void> {
    let failures = 0;
    let expired = false;
    let ready: Opened | undefined; // a session that stands elsewhere
    let others: string[] = []; // servers that the last one named that left
    while (!this.closed) {
      let error: Error;
      let l: Link | undefined;
      try {
        if (!ready) this.enter("connecting");
        const o: Opened = ready ?? (await open(this, this.next(failures, others), expired));
        ready = undefined;
        if (this.closed) return o.wire.end(new ClosedError()); // at the last moment
        l = this.established(o);
        failures = 0;
        error = await l.wire.ended;
      } catch (e) {
        error = asError(e);
        l ??= this.link;
        l?.wire.end(error);
      }
      const d = l?.leaving;
      if (d) await d.moving; // the other server may have had this connection closed
      if (d) others = d.others;
      if (l) this.gone(l);
      if (this.closed) {
        d?.ready?.wire.end(error);
        return;
      }
      const signedOut = error instanceof Dismissal && (error.told.code === Code.SessionRevoked || error.told.code === Code.Banned);
      if (d?.ready) {
        ready = d.ready;
        if (!signedOut) continue;
        ready.wire.end(error);
      }
      error = this.strays.explain(error);
      const told = error instanceof Dismissal ? error.told : undefined;
      expired = told?.code === Code.TokenExpired;
      let retryMs: number;
      if (d && !(error instanceof Dismissal && error.final)) retryMs = told?.retryAfterMs || d.after; // who stayed to the end is told when to come back
      else if (error instanceof Dismissal && error.final) {
        this.log.warn("the client has stopped", error);
        if (signedOut) this.setSession({ resumeToken: "" });
        this.stop(new StoppedError(error.told));
        this.dispatch.push("stopped", { error: error.told });
        return;
      } else {
        retryMs = jitter(this.backoff(failures++));
        if (error instanceof Dismissal && error.elsewhere.length > 0) {
          others = error.elsewhere;
          if (failures % 2 === 0) failures++; // to one of them
        } else retryMs = Math.max(retryMs, told?.retryAfterMs ?? 0);
      }
      this.log.info(`disconnected, trying again in ${Math.round(retryMs)} ms`, error);
      this.enter("offline");
      this.dispatch.push("disconnected", { error: told ?? error, retryMs });
      await this.pause(retryMs, !told?.retryAfterMs && !d);
    }
  }

  /** How long to wait at most after so many failures. */
  backoff(failures: number): number {
    return Math.min(this.cfg.minBackoffMs * 2 ** Math.min(failures, 16), this.cfg.maxBackoffMs);
  }

  /** Waits; `cuttable`: unless the network or the user comes back before. */
  private pause(ms: number, cuttable: boolean): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.cutPause = undefined;
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.cutPause = () => {
        if (cuttable || this.closed) end();
      };
    });
  }

  /** The network, or the user, is back: connects now, or finds out whether the connection still lives. */
  nudge(): void {
    this.cutPause?.();
    const l = this.link;
    if (!l || l.probeBy > 0) return;
    l.write(FrameType.Ping);
    l.probeBy = Date.now() + this.cfg.deadAfterMs / 2;
    this.wake();
  }

  /** The network is said to be gone. */
  networkGone(): void {
    this.link?.giveUp("there is no network");
  }

  /** Takes in the CONNACK and starts what waits. */
  private established(o: Opened): Link {
    const { ack } = o;
    const l = new Link(o.wire, ack, Date.now());
    this.maxContent = l.limits.maxContent;
    this.offset = Number(ack.serverTime) - o.at;
    this.user = ack.userId;
    this.list.user(this.user);
    this.outbox.adopt();
    this.enter("connected");
    this.dispatch.push("connected", { user: this.user, server: ack.server, resumed: ack.resumed });
    let { syncMark } = this.session;
    if (this.session.storeEpoch !== ack.storeEpoch) {
      if (this.session.storeEpoch !== 0n) {
        this.log.warn("the server's store was restored, everything is synced anew");
        this.timelines.forget();
        this.outbox.forget();
        this.rooms.forget();
        this.saver.forget();
        this.dispatch.push("resynced", { storeEpoch: ack.storeEpoch.toString() });
      }
      syncMark = 0n;
    }
    this.setSession({ user: this.user, resumeToken: ack.resumeToken, storeEpoch: ack.storeEpoch, syncMark });
    this.link = l;
    this.inbox.page(l, ack.conversations, ack.inboxCursor, ack.syncMark);
    this.rooms.rejoin(l);
    o.wire.listen((f) => this.frame(l, f));
    for (const w of this.waiters.splice(0)) w.resolve(l);
    this.wake();
    return l;
  }

  /** Cleans up behind a connection. */
  private gone(l: Link): void {
    this.link = undefined;
    clearTimeout(this.timer);
    this.beat.learn(l);
    this.outbox.lost();
    this.timelines.lost(l);
    for (const w of l.requests.values()) {
      if (w.kind === "call") w.done(undefined, lost);
      else if (w.kind === "pull") w.pull.range?.done(undefined, lost);
    }
  }

  /** Acts on one frame; what it throws ends the connection. */
  private frame(l: Link, f: Frame): void {
    if (this.link !== l) return;
    l.lastRead = Date.now();
    l.probeBy = 0;
    this.wake();
    switch (f.type) {
      case FrameType.SendAck: {
        const w = this.answered(l, f);
        if (w?.kind === "send") this.outbox.acked(l, w.o, f.body);
        return;
      }
      case FrameType.Deliver:
        if (f.flags & Flag.NeverPull) return this.rooms.delivered(f.body);
        return this.timelines.delivered(f.body);
      case FrameType.Synced:
        return this.timelines.synced(l, f);
      case FrameType.Response: {
        const w = this.answered(l, f);
        if (w?.kind !== "call") return;
        const r = decode(Response, f.body);
        if (r.method === w.method) w.done(r.body, undefined);
        else w.done(undefined, new GoChatError(Code.Internal, `the answer to method ${w.method} is one to ${r.method}`));
        return;
      }
      case FrameType.Error: {
        if (f.requestId === undefined) throw farewell(f);
        const err = errorOf(f.body);
        const w = this.answered(l, f);
        if (w?.kind === "send") this.outbox.refused(l, w.o, f.requestId, err);
        else if (w?.kind === "pull") this.timelines.pullRefused(l, w.pull, err);
        else w?.done(undefined, err);
        return;
      }
      case FrameType.Kick:
        throw farewell(f);
      case FrameType.Hint:
        return this.inbox.hinted(l, decode(Hint, f.body));
      case FrameType.Signal:
        return this.inbox.signalled(decode(Signal, f.body));
      case FrameType.Pong:
        l.beats++;
        return;
      case FrameType.Ping:
        l.write(FrameType.Pong, undefined, f.requestId);
        return;
      case FrameType.Drain:
        leave(l, decode(Drain, f.body), Date.now());
        this.log.info("the server is leaving");
        return;
    }
  }

  /** Returns who waits for this frame, and lets go of the request unless more parts follow. */
  answered(l: Link, f: Frame): Waiter | undefined {
    if (f.requestId === undefined) return undefined;
    const w = l.requests.get(f.requestId);
    if (!(f.flags & Flag.More && (f.type === FrameType.Synced || f.type === FrameType.Response))) l.requests.delete(f.requestId);
    return w;
  }

  /** Has the clock looked at soon. */
  wake(): void {
    if (this.woken) return;
    this.woken = true;
    queueMicrotask(() => {
      this.woken = false;
      this.tick();
    });
  }

  /** Does what is due, and sets the clock for what comes next. */
  private tick(): void {
    const l = this.link;
    if (!l || l.wire.over) return;
    clearTimeout(this.timer);
    const now = Date.now();
    const deadAt = l.probeBy || l.lastRead + l.heartbeat + this.cfg.deadAfterMs;
    if (now >= deadAt) {
      l.silent = l.probeBy === 0;
      return l.giveUp(`nothing heard for ${now - l.lastRead} ms`);
    }
    this.rooms.due();
    let next = deadAt;
    const leaving = leaveDue(this, l, now);
    next = Math.min(next, leaving.next);
    if (!leaving.going) { // else what is under way is waited for, and nothing new begins
      next = Math.min(next, this.outbox.pump(l, now), this.timelines.pullDue(l, now), this.inbox.due(l, now), this.inbox.doubtsDue(l, now), this.timelines.ackDue(l, now));
      // A PING after two thirds of the time allowed, give or take, tells both sides that the other lives.
      if (now >= l.lastWrite + (l.heartbeat * 2) / 3) l.write(FrameType.Ping);
      next = Math.min(next, l.lastWrite + (l.heartbeat * 2) / 3);
    }
    this.timer = setTimeout(() => this.tick(), Math.max(1, Math.min(next - now, 0x7fffffff)));
  }

  /** Calls a method over a connection. */
  ask<Q, A>(l: Link, method: Method<Q, A>, request: Init<Q>, signal?: AbortSignal): Promise<A> {
    if (signal?.aborted) return Promise.reject(asError(signal.reason));
    return new Promise((resolve, reject) => {
      const body = encode(Request, { method: method.number, body: encode(method.request, request) });
      const done = (answer: Uint8Array | undefined, error: Error | undefined) => {
        signal?.removeEventListener("abort", aborted);
        if (!answer) return reject(error!);
        try {
          resolve(decode(method.answer, answer));
        } catch (e) {
          reject(asError(e));
        }
      };
      const aborted = () => reject(asError(signal!.reason));
      signal?.addEventListener("abort", aborted);
      l.write(FrameType.Request, body, l.request({ kind: "call", method: method.number, done }));
      this.wake();
    });
  }

  /** Does something over a connection, waiting for one if there is none, and again if it is lost meanwhile: all of it may be repeated. */
  private async over<T>(options: CallOptions | undefined, what: (l: Link) => Promise<T>): Promise<T> {
    for (;;) {
      options?.signal?.throwIfAborted();
      const l = await this.connected(options?.signal);
      if (this.link !== l) continue;
      try {
        return await what(l);
      } catch (e) {
        if (e !== lost) throw e;
        await Promise.resolve();
      }
    }
  }

  call<Q, A>(method: Method<Q, A>, request: Init<Q>, options?: CallOptions): Promise<A> {
    const n = method.number;
    const room = () => wireConversation((request as unknown as { conversationId: Uint8Array }).conversationId);
    if (n === methods.roomLeave.number) this.rooms.left(room());
    if (n === methods.roomJoin.number) {
      return this.rooms.join(room(), (entered) => this.over(options, async (l) => {
        const w = await this.ask(l, methods.roomJoin, request as never, options?.signal);
        entered(l, w);
        return w;
      })) as Promise<never>;
    }
    return this.over(options, async (l) => {
      const a = await this.ask(l, method, request, options?.signal);
      // These tell how a conversation stands.
      if (n === methods.settings.number || n === methods.conversation.number) this.inbox.heard(a as never);
      else if (n === methods.openDirect.number && (a as { conversation?: never }).conversation) this.inbox.heard((a as { conversation: never }).conversation);
      return a;
    });
  }

  range(conversation: string, from: bigint, limit: number, options?: CallOptions): Promise<Synced> {
    conversationBytes(conversation);
    return this.over(options, (l) => new Promise((resolve, reject) => {
      this.timelines.range(l, conversation, from, limit, (s, error) => (error || !s ? reject(error ?? lost) : resolve(s)));
    }));
  }

  signal(to: Target, kind: number, data: Uint8Array | undefined): void {
    if (data && data.length > 4096) throw new GoChatError(Code.BadRequest, `${data.length} bytes of a signal, at most 4096`);
    const named = "user" in to ? { toUserId: to.user } : { conversationId: conversationBytes(to.conversation) };
    const l = this.link;
    if (l && !l.leaving?.closing && l.wire.buffered < maxUnwritten) l.write(FrameType.Signal, encode(Signal, { ...named, kind, data }));
  }

  setBackground(background: boolean): void {
    if (this.background === background) return;
    this.background = background;
    if (this.link) this.ask(this.link, methods.background, { background }).catch((e) => this.log.info("telling the server of the background", e));
  }

  typingOver(conversation: string, user: string): void {
    this.inbox.typingOver(conversation, user);
  }
}
