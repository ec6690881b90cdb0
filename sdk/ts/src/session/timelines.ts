// Receiving: what arrived of each conversation, what is missing, and pulling that.

import { MessageType, type AnyEvent, type Message } from "../api.js";
import { messageOf, peerOf } from "../convert.js";
import { GoChatError } from "../errors.js";
import { ConversationKind, conversationKind, fromHex, toHex } from "../ids.js";
import { membershipOf } from "../list.js";
import type { Cursor } from "../store/store.js";
import { Code } from "../wire/codes.gen.js";
import { Flag, FrameType, type Frame } from "../wire/frame.js";
import { decode, encode, type Init } from "../wire/proto.js";
import { Deliver, RecvAck, Sync, Synced, type Message as WireMessage, type SyncRange } from "../wire/wire.gen.js";
import type { Engine } from "./engine.js";
import type { Link } from "./link.js";
import type { Search } from "./outbox.js";

/** Messages of one conversation that wait for earlier ones. */
const maxAside = 256;
/** Ranges of one SYNC, fewer while the server finds them too many. */
const maxRanges = 32;
/** SYNCs under way. */
const maxPulls = 4;
/** Entries of one RECVACK. */
const acksAFrame = 256;

/** Where one conversation stands. */
export class Timeline {
  peer = "";
  /** The numbers below hold. */
  known = false;
  /** How it stands was asked, and is not answered yet. */
  asking = false;
  /** Given to the application's queue, or will never come. */
  applied = 0n;
  /** The application has had it: what is stored, and what RECVACK tells. */
  done = 0n;
  acked = 0n;
  /** The last seq heard of. */
  head = 0n;
  /** The last seq when the server last said how the conversation stands, or was asked to. */
  told = 0n;
  /** Where the user was taken out of it, or left; 0: is in, as far as is known. */
  left = 0n;
  /** Above applied + 1. */
  readonly aside = new Map<bigint, Message>();
  /** A hole is pulled then; 0: at once. */
  gapAt = 0;
  pulling = false;
  /** The server wants no SYNC of it before. */
  wait = 0;

  constructor(readonly id: string) {}
}

/** A SYNC under way: for these timelines, for a search, or for somebody who asked for a range. */
export interface Pull {
  timelines: Map<string, Timeline>;
  /** Ranges that could be read. */
  answered: number;
  search?: Search;
  range?: { done: (s: Synced | undefined, error: Error | undefined) => void };
}

const max = (a: bigint, b: bigint) => (a > b ? a : b);
const min = (a: bigint, b: bigint) => (a < b ? a : b);

/** A conversation id that came over the wire; throws a GoChatError if it is none. */
export function wireConversation(b: Uint8Array): string {
  if (b.length !== 16) throw new GoChatError(Code.BadRequest, `a conversation id of ${b.length} bytes`);
  return toHex(b);
}

export class Timelines {
  private readonly all = new Map<string, Timeline>();
  /** Those that miss something. */
  private readonly behind = new Set<Timeline>();
  /** Those with a RECVACK due. */
  private readonly unacked = new Set<Timeline>();
  private nextAck = 0;

  constructor(private readonly e: Engine) {}

  /** Takes in what was stored. */
  load(cursors: Map<string, Cursor>): void {
    for (const [id, c] of cursors) {
      const t = this.get(id);
      t.known = true;
      t.applied = t.done = t.acked = c.applied;
      t.head = c.head;
      this.look(t);
    }
  }

  get(id: string): Timeline {
    let t = this.all.get(id);
    if (!t) this.all.set(id, (t = new Timeline(id)));
    return t;
  }

  find(id: string): Timeline | undefined {
    return this.all.get(id);
  }

  /** Sets where a conversation begins for this device when it is heard of for the first time, by its message seq. */
  meet(t: Timeline, seq: bigint): void {
    t.known = true;
    const n = this.e.cfg.backlog;
    if (n === 0) t.applied = seq - 1n;
    else if (Number.isFinite(n) && seq > BigInt(Math.floor(n))) t.applied = seq - BigInt(Math.floor(n));
    t.done = t.acked = t.applied;
  }

  /**
   * Meets a conversation of which a message came, or was told of, before how it stands did: it is new, or it was hidden,
   * or left, when the device came. What messages don't tell is asked for: what the user set, and has read, and of a group
   * its name and the user's role. Of the first message of a direct conversation there is nothing to ask.
   */
  encounter(t: Timeline, seq: bigint): void {
    this.meet(t, seq);
    const kind = conversationKind(t.id);
    if (kind === ConversationKind.Group || (kind === ConversationKind.Direct && seq > 1n)) this.ask(t, seq);
  }

  /** Takes in where a conversation's head and beginning are, as its state tells. */
  stands(t: Timeline, head: bigint, first: bigint): void {
    const fresh = !t.known;
    if (fresh) {
      this.meet(t, head + 1n);
      const n = this.e.cfg.backlog;
      if (n > 0 && Number.isFinite(n) && t.applied > 0n) t.applied--; // meet counts from a message that has come
      if (first > t.applied + 1n) t.applied = first - 1n;
      t.applied = min(t.applied, head);
      t.done = t.acked = t.applied;
    }
    if (fresh || head > t.head) {
      t.head = max(t.head, head);
      this.look(t);
      this.settle(t);
    }
  }

  /** A head that was hinted at. */
  hinted(id: string, seq: bigint): void {
    const t = this.get(id);
    if (!t.known) this.encounter(t, seq);
    t.head = max(t.head, seq);
    this.look(t);
  }

  /** Drops all that is known: another epoch. */
  forget(): void {
    const peers = [...this.all.values()].map((t) => [t.id, t.peer] as const);
    this.all.clear();
    this.behind.clear();
    this.unacked.clear();
    for (const [id, peer] of peers) this.get(id).peer = peer;
  }

  /** What was under way on a connection is no more; its last RECVACK may be lost, and is said again. */
  lost(l: Link): void {
    for (const t of this.all.values()) {
      t.pulling = false;
      t.wait = 0;
    }
    for (const t of l.acked) if (this.current(t)) this.unacked.add(t);
  }

  private current(t: Timeline): boolean {
    return this.all.get(t.id) === t;
  }

  /** Keeps t among those that miss something while it does. */
  look(t: Timeline): void {
    if (t.applied < t.head) this.behind.add(t);
    else {
      t.gapAt = 0;
      this.behind.delete(t);
    }
  }

  /** Stores t and has it told to the server. */
  settle(t: Timeline): void {
    this.e.saver.cursor(t.id, { applied: t.done, head: t.head });
    if (t.done > t.acked) this.unacked.add(t);
  }

  /** The application has had the messages up to seq. */
  handled(t: Timeline, seq: bigint): void {
    if (!this.current(t)) return; // of another epoch
    t.done = max(t.done, seq);
    this.settle(t);
  }

  delivered(body: Uint8Array): void {
    const d = decode(Deliver, body);
    const id = wireConversation(d.conversationId);
    const t = this.get(id);
    if (d.users.length === 2) t.peer = peerOf(this.e.user, d.users);
    for (const m of d.messages) {
      if (!t.known) this.encounter(t, m.seq);
      this.arrive(t, m);
    }
  }

  /** Takes in a message that came by whatever way. */
  arrive(t: Timeline, m: WireMessage): void {
    this.e.outbox.claim(t.id, m);
    t.head = max(t.head, m.seq);
    try {
      if (m.seq <= t.applied || this.e.dispatch.full) return;
      const msg = messageOf(m, t.id, this.e.user, t.peer);
      if (m.seq > t.applied + 1n) {
        if (t.gapAt === 0) t.gapAt = Date.now() + this.e.cfg.gapWaitMs;
        if (t.aside.size < maxAside) t.aside.set(m.seq, msg);
        return;
      }
      this.take(t, msg);
      this.takeAside(t);
    } finally {
      this.look(t);
    }
  }

  private take(t: Timeline, m: Message): void {
    t.applied = m.seq;
    this.e.typingOver(t.id, m.sender);
    this.e.drafts.done(t.id, m.sender);
    this.e.dispatch.message(t, m.seq, eventOf(m));
    if (t.left !== 0n && m.seq > t.left) { // back again
      t.left = 0n;
      this.ask(t, m.seq);
    }
    const w = membershipOf(m);
    if (!w || m.seq <= t.told) return;
    const out = w.do === "leave" || w.do === "remove";
    if (w.users.includes(this.e.user)) {
      if (out) t.left = m.seq;
      else this.ask(t, m.seq); // brought in, or given another role
    } else if (out && w.count > w.users.length) this.e.inbox.doubt(t.id); // one of those who aren't named?
  }

  /** Asks how t stands as of a message. */
  private ask(t: Timeline, seq: bigint): void {
    t.told = max(t.told, seq);
    this.e.inbox.askState(t.id);
  }

  /** Takes what follows without a hole. */
  private takeAside(t: Timeline): void {
    while (t.aside.size > 0 && !this.e.dispatch.full) {
      const m = t.aside.get(t.applied + 1n);
      if (!m) break;
      t.aside.delete(m.seq);
      this.take(t, m);
    }
    for (const seq of t.aside.keys()) if (seq <= t.applied) t.aside.delete(seq);
  }

  /** Goes past seqs that will never come. */
  private skip(t: Timeline, to: bigint): void {
    if (to <= t.applied) return;
    t.applied = to;
    t.head = max(t.head, to);
    this.e.dispatch.skip(t, to);
  }

  /** Asks for what is missing, as far as it is time, and returns when to look again. */
  pullDue(l: Link, now: number): number {
    if (this.e.dispatch.waiting > this.e.cfg.queue / 2 || l.pulls >= maxPulls) return Infinity; // woken by progress, or the answer
    let next = Infinity;
    const ranges: Init<SyncRange>[] = [];
    const pull: Pull = { timelines: new Map(), answered: 0 };
    for (const t of this.behind) {
      if (t.pulling) continue;
      const due = Math.max(t.gapAt, t.wait);
      if (now < due) {
        next = Math.min(next, due);
        continue;
      }
      if (ranges.length === l.ranges) {
        next = now;
        break;
      }
      let to = 0n;
      for (const seq of t.aside.keys()) if (to === 0n || seq <= to) to = seq - 1n;
      ranges.push({ conversationId: fromHex(t.id), fromSeq: t.applied + 1n, toSeq: to });
      pull.timelines.set(t.id, t);
      t.pulling = true;
    }
    if (ranges.length === 0) return next;
    l.pulls++;
    l.write(FrameType.Sync, encode(Sync, { ranges }), l.request({ kind: "pull", pull }));
    return next;
  }

  /** Asks for a range for somebody. */
  range(l: Link, conversation: string, from: bigint, limit: number, done: (s: Synced | undefined, error: Error | undefined) => void): void {
    const pull: Pull = { timelines: new Map(), answered: 0, range: { done } };
    l.write(FrameType.Sync, encode(Sync, { ranges: [{ conversationId: fromHex(conversation), fromSeq: from, limit }] }), l.request({ kind: "pull", pull }));
  }

  /** Acts on one range of a SYNC's answer. */
  synced(l: Link, f: Frame): void {
    const w = this.e.answered(l, f);
    if (w?.kind !== "pull") return;
    const p = decode(Synced, f.body);
    const refused = p.error && new GoChatError(p.error.code, p.error.reason, p.error.retryAfterMs, true);
    const pull = w.pull;
    if (pull.range) return pull.range.done(p, refused);
    if (pull.search) {
      for (const m of p.messages) this.e.outbox.claim(pull.search.conversation, m);
      return this.e.outbox.searched(pull.search, p, refused);
    }
    if (!(f.flags & Flag.More)) l.pulls--;
    const id = wireConversation(p.conversationId);
    const t = pull.timelines.get(id);
    pull.timelines.delete(id);
    if (!t || !this.current(t)) return;
    t.pulling = false;
    if (refused) {
      if (refused.code === Code.Overloaded) l.ranges = Math.max(pull.answered, 1);
      return this.unreadable(t, refused);
    }
    pull.answered++;
    l.ranges = Math.min(l.ranges + 1, maxRanges);
    this.page(t, p);
  }

  /** Takes in what a range holds: the seqs that it leaves out will never come. */
  private page(t: Timeline, p: Synced): void {
    const before = t.applied;
    if (p.fromSeq <= before + 1n && p.firstSeq > before + 1n) this.e.dispatch.push("gone", { conversation: t.id, firstSeq: p.firstSeq });
    if (p.users.length === 2) t.peer = peerOf(this.e.user, p.users);
    for (const m of p.messages) {
      if (this.e.dispatch.full) break;
      if (p.fromSeq <= t.applied + 1n && m.seq > t.applied + 1n) this.skip(t, m.seq - 1n);
      this.arrive(t, m);
    }
    if (!this.e.dispatch.full && p.fromSeq <= t.applied + 1n) this.skip(t, p.toSeq);
    this.takeAside(t);
    t.gapAt = 0; // what is still missing is asked for at once
    if (p.toSeq < p.fromSeq) { // nothing there: whoever told of a later head was wrong, or ahead of this answer
      t.head = max(t.applied, p.lastSeq);
      if (t.applied === before && t.applied < t.head) t.wait = Date.now() + 1000;
    } else t.head = max(t.head, p.lastSeq);
    this.look(t);
  }

  /** Acts on a conversation that could not be synced. */
  private unreadable(t: Timeline, err: GoChatError): void {
    if (err.class === "terminal") { // not the user's any more
      this.e.log.warn(`conversation ${t.id} can't be read`, err);
      t.head = t.applied;
      t.aside.clear();
      this.look(t);
      this.settle(t);
      return;
    }
    t.wait = Date.now() + Math.max(err.retryAfterMs, 500);
  }

  /** Acts on the ERROR that a SYNC got. */
  pullRefused(l: Link, p: Pull, err: GoChatError): void {
    if (p.range) return p.range.done(undefined, err);
    if (p.search) return this.e.outbox.searched(p.search, undefined, err);
    l.pulls--;
    for (const t of p.timelines.values()) {
      t.pulling = false;
      if (this.current(t)) this.unreadable(t, err);
    }
  }

  /** Tells the server what the application has had, at most once an interval, and returns when to look again. */
  ackDue(l: Link, now: number): number {
    if (this.unacked.size === 0) return Infinity;
    if (now < this.nextAck) return this.nextAck;
    this.writeRecvAcks(l);
    this.nextAck = now + this.e.cfg.ackIntervalMs;
    return Infinity;
  }

  writeRecvAcks(l: Link): void {
    const acks = [...this.unacked].map((t) => {
      t.acked = t.done;
      l.acked.add(t);
      return { conversationId: fromHex(t.id), seq: t.done };
    });
    for (let i = 0; i < acks.length; i += acksAFrame) l.write(FrameType.RecvAck, encode(RecvAck, { acks: acks.slice(i, i + acksAFrame) }));
    this.unacked.clear();
  }
}

/** What a message is told as: one of the self timeline as an event of the account. */
function eventOf(m: Message): AnyEvent {
  if (conversationKind(m.conversation) === ConversationKind.Self && m.type === MessageType.AccountEvent) {
    try {
      const e = JSON.parse(m.text) as { event?: unknown; device?: unknown; kind?: unknown; by?: unknown };
      const s = (v: unknown) => (typeof v === "string" ? v : "");
      return { type: "account", data: { what: s(e.event), device: s(e.device), kind: s(e.kind), by: s(e.by), time: m.time } };
    } catch {
      // told as the message that it is
    }
  }
  return { type: "message", data: m };
}
