// Messages on their way to the server: in order within a conversation, under the same id until they are answered.

import type { Ack, Content, Target, Waiting } from "../api.js";
import { anySize, checkSend, contentOf, conversationBytes, sendOf, storedSend } from "../convert.js";
import { GoChatError } from "../errors.js";
import { ConversationKind, conversationKind, directConversation, fromHex, fromUuid, IdSource, sameTail, toUuid, uuidTime } from "../ids.js";
import type { Outgoing as Stored } from "../store/store.js";
import { Code } from "../wire/codes.gen.js";
import { Flag, FrameType } from "../wire/frame.js";
import { decode, encode } from "../wire/proto.js";
import { Send, SendAck, Sync, type Message as WireMessage, type Synced } from "../wire/wire.gen.js";
import type { Engine } from "./engine.js";
import type { Link } from "./link.js";
import { jitter } from "./pace.js";
import { wireConversation } from "./timelines.js";

/** How often a message gets a new id before it is given up. */
const maxStamps = 3;

/** A message that waits to be stored. */
export class Outgoing {
  lane!: Lane;
  /** The id that send returned. */
  readonly first: string;
  stamps = 0;
  /** On this connection, and not answered. */
  sent = false;
  /** The request of the last try. */
  req = 0;
  /** Is getting a new id. */
  busy = false;

  /** @param tried maybe stored */
  constructor(public s: Stored, public tried: boolean) {
    this.first = s.id;
  }
}

/** The messages that wait for one conversation, in order. */
class Lane {
  queue: Outgoing[] = [];
  /** Nothing is sent before. */
  blocked = 0;
  /** Looking for a message whose id the server doesn't know any more. */
  search: Search | undefined;
  /** In Outbox.order. */
  listed = false;
  constructor(public key: string) {}
}

/** A walk through a conversation, from a seq up to its head. */
export interface Search {
  o: Outgoing;
  conversation: string;
  next: bigint;
  busy: boolean;
  wait: number;
}

const byUser = (user: string) => `user ${user}`;

export class Outbox {
  private readonly lanes = new Map<string, Lane>();
  /** In the order in which they got messages to send. */
  private order: Lane[] = [];
  /** By their current ids. */
  private readonly waiting = new Map<string, Outgoing>();
  private readonly ids = new IdSource();
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly e: Engine,
    /** Told when a message's outcome is known. */
    private readonly settled: (id: string, ack: Ack | undefined, error: Error | undefined) => void,
  ) {}

  /** Takes in what was stored. */
  load(stored: Stored[]): void {
    for (const s of stored) {
      this.ids.above(fromUuid(s.id));
      this.queue(new Outgoing(s, true));
    }
  }

  /** The messages that wait, oldest first in each conversation. */
  list(): Waiting[] {
    return this.order.flatMap((l) => l.queue.map(({ first, s }) => ({
      id: first, conversation: s.conversation, to: s.user ? { user: s.user } : { conversation: s.conversation },
      time: uuidTime(fromUuid(first)), content: contentOf(decode(Send, s.body)),
    })));
  }

  has(id: string): boolean {
    for (const o of this.waiting.values()) if (o.first === id) return true;
    return false;
  }

  /** How many of the messages that wait for a conversation may be stored. */
  tried(conversation: string): number {
    return this.lanes.get(conversation)?.queue.filter((o) => o.tried).length ?? 0;
  }

  /** The waiting message whose id has this tail (see add), if there is one. */
  byTail(tail: Uint8Array): string | undefined {
    for (const o of this.waiting.values()) if (sameTail(fromUuid(o.first), tail)) return o.first;
    return undefined;
  }

  /** Stores a message, behind those before it, and resolves with its id. `tail`: the last 8 bytes of that. */
  add(to: Target, content: Content, seen: bigint | undefined, tail?: Uint8Array): Promise<string> {
    const mine = this.last.then(() => this.put(to, content, seen, tail));
    this.last = mine.catch(() => {});
    return mine;
  }

  private async put(to: Target, content: Content, seen: bigint | undefined, tail?: Uint8Array): Promise<string> {
    const e = this.e;
    if (e.stoppedBy) throw e.stoppedBy;
    const user = "user" in to ? to.user : "";
    let conversation = "user" in to ? (e.user && directConversation(e.user, user)) : to.conversation;
    const id = this.ids.next(e.serverNow(), tail);
    const s = { ...sendOf(content), clientMsgId: id, seenSeq: seen ?? 0n, toUserId: user, conversationId: "user" in to ? undefined : conversationBytes(conversation) };
    const l = e.link?.limits;
    checkSend(s, l && l.maxContent > 0 ? l : anySize);
    const base = e.timelines.find(conversation)?.applied ?? 0n;
    const stored: Stored = { id: toUuid(id), conversation, user, body: encode(Send, s), interactive: seen !== undefined, base };
    await e.store.putOutgoing(stored);
    if (user && !conversation && e.user) stored.conversation = directConversation(e.user, user); // the first CONNACK came meanwhile
    this.queue(new Outgoing(stored, false));
    if (e.stoppedBy) throw e.stoppedBy;
    e.wake();
    return stored.id;
  }

  private queue(o: Outgoing): void {
    const key = o.s.conversation || byUser(o.s.user);
    let l = this.lanes.get(key);
    if (!l) this.lanes.set(key, (l = new Lane(key)));
    o.lane = l;
    l.queue.push(o);
    this.waiting.set(o.s.id, o);
    this.enlist(l);
  }

  private enlist(l: Lane): void {
    if (!l.listed) {
      l.listed = true;
      this.order.push(l);
    }
  }

  /** Gives the lanes that were named by user their conversation, now that the client knows who it is. Those are older than any of the conversation's own. */
  adopt(): void {
    for (const [key, l] of [...this.lanes]) {
      if (!key.startsWith("user ")) continue;
      this.lanes.delete(key);
      const conversation = directConversation(this.e.user, key.slice(5));
      for (const o of l.queue) o.s.conversation = conversation;
      const to = this.lanes.get(conversation);
      if (!to) {
        l.key = conversation;
        this.lanes.set(conversation, l);
        continue;
      }
      to.queue.unshift(...l.queue);
      for (const o of l.queue) o.lane = to;
      l.queue = [];
      this.enlist(to);
    }
  }

  /** Forgets what was under way on a connection that ended. */
  lost(): void {
    for (const l of this.lanes.values()) {
      for (const o of l.queue) o.sent = false;
      l.blocked = 0;
      if (l.search) {
        l.search.busy = false;
        l.search.wait = 0;
      }
    }
  }

  /** The stored messages' seqs mean nothing any more: another epoch. */
  forget(): void {
    for (const o of this.waiting.values()) o.s.base = 0n;
  }

  /** Sends what may be sent, and returns when to look again. */
  pump(l: Link, now: number): number {
    let next = Infinity;
    const kept: Lane[] = [];
    let turn = 0; // behind the last lane that sent something
    let late = false; // the pace held one back
    for (const lane of this.order) {
      if (lane.queue.length === 0) {
        lane.listed = false;
        if (this.lanes.get(lane.key) === lane && !lane.search) this.lanes.delete(lane.key);
        continue;
      }
      kept.push(lane);
      if (lane.search) {
        next = Math.min(next, this.searchDue(l, lane.search, now));
        continue;
      }
      if (now < lane.blocked) {
        next = Math.min(next, lane.blocked);
        continue;
      }
      for (const o of lane.queue) {
        if (l.inflight >= l.limits.maxInflight || o.busy) break;
        if (o.sent) continue;
        const at = Math.max(l.bytes.next(), l.sends.next());
        if (now < at) {
          late = true;
          next = Math.min(next, at);
          break;
        }
        o.req = l.request({ kind: "send", o });
        const size = l.write(FrameType.Send, o.s.body, o.req, (o.tried ? Flag.Resend : 0) | (o.s.interactive ? Flag.Interactive : 0));
        l.sends.spend(now, 1);
        l.bytes.spend(now, size);
        l.inflight++;
        o.sent = o.tried = true;
        turn = kept.length;
      }
    }
    // The next lane's turn: a long one must not hold up the others.
    this.order = late && turn > 0 && turn < kept.length ? [...kept.slice(turn), ...kept.slice(0, turn)] : kept;
    return next;
  }

  /** Takes in a SENDACK: the message is stored, and has arrived here too. */
  acked(l: Link, o: Outgoing, body: Uint8Array): void {
    l.inflight--;
    const a = decode(SendAck, body);
    if (this.waiting.get(o.s.id) !== o) return;
    const conversation = a.conversationId.length > 0 ? wireConversation(a.conversationId) : o.s.conversation;
    this.stored(o, { conversation, seq: a.seq, messageId: a.messageId.toString(), duplicate: a.duplicate });
    const m = storedSend(decode(Send, o.s.body), a.seq, a.messageId, this.e.user);
    if (conversationKind(conversation) === ConversationKind.Room) return this.e.rooms.own(conversation, m);
    const t = this.e.timelines.get(conversation);
    if (!t.known) this.e.timelines.encounter(t, a.seq);
    t.peer ||= o.s.user;
    this.e.timelines.arrive(t, m);
  }

  /** Ends the own message that this one is, if it waits for its ack: what is in the timeline is stored. */
  claim(conversation: string, m: WireMessage): void {
    if (m.senderId !== this.e.user || this.waiting.size === 0 || m.clientMsgId.length !== 16) return;
    const o = this.waiting.get(toUuid(m.clientMsgId));
    if (o && o.s.conversation === conversation) this.stored(o, { conversation, seq: m.seq, messageId: m.messageId.toString(), duplicate: false });
  }

  private stored(o: Outgoing, ack: Ack): void {
    this.remove(o);
    this.settled(o.first, ack, undefined);
    this.e.dispatch.push("sent", { id: o.first, ack });
  }

  private failed(o: Outgoing, error: GoChatError): void {
    this.remove(o);
    this.settled(o.first, undefined, error);
    this.e.dispatch.push("failed", { id: o.first, error });
    this.e.rooms.settled(o.s.conversation);
  }

  private remove(o: Outgoing): void {
    this.waiting.delete(o.s.id);
    const i = o.lane.queue.indexOf(o);
    if (i >= 0) o.lane.queue.splice(i, 1);
    if (o.lane.search?.o === o) o.lane.search = undefined;
    this.e.store.dropOutgoing(o.s.id).catch((e) => this.e.log.error("removing a message from the outbox", e));
  }

  /** Acts on the ERROR that a SEND got. */
  refused(l: Link, o: Outgoing, req: number, err: GoChatError): void {
    l.inflight--;
    if (this.waiting.get(o.s.id) !== o || !o.sent || o.req !== req) return; // an answer to a try that was given up
    const lane = o.lane;
    if (err.scope === "lane" || err.class === "retry_same") {
      // The rest of the lane is refused too: all of it goes again, from here on, in order.
      for (const p of lane.queue.slice(lane.queue.indexOf(o))) p.sent = false;
      const wait = lane.queue[0] === o ? Math.max(err.retryAfterMs, 50) : err.retryAfterMs;
      const until = Date.now() + wait + jitter(wait / 2);
      lane.blocked = Math.max(lane.blocked, until);
      if (err.code === Code.RateLimited) l.sends.hold(until); // the rates are of all lanes together
      this.enlist(lane);
    } else if (err.code === Code.IdInFuture) {
      o.sent = false;
      void this.restamp(o, err);
    } else if (err.code === Code.IdUnknown) {
      for (const p of lane.queue) p.sent = false; // nothing may overtake it; those on their way come back by their ids
      lane.search = { o, conversation: o.s.conversation, next: o.s.base + 1n, busy: false, wait: 0 };
    } else this.failed(o, err);
  }

  /** Gives a message that is surely not stored a new id, because of err. */
  private async restamp(o: Outgoing, err: GoChatError): Promise<void> {
    if (++o.stamps > maxStamps) return this.failed(o, err);
    const id = this.ids.next(this.e.serverNow());
    const old = o.s;
    const next: Stored = { ...old, id: toUuid(id), body: encode(Send, { ...decode(Send, old.body), clientMsgId: id }) };
    o.busy = true; // and those behind it wait: the order is kept
    try {
      await this.e.store.replaceOutgoing(old.id, next);
      if (this.waiting.get(old.id) !== o) return; // stored after all
      this.waiting.delete(old.id);
      o.s = next;
      o.tried = false;
      this.waiting.set(next.id, o);
    } catch (e) {
      this.e.log.error("giving a message a new id", e);
      o.lane.blocked = Date.now() + 1000;
    } finally {
      o.busy = false;
      this.enlist(o.lane);
      this.e.wake();
    }
  }

  /** Asks for the next stretch of a search. */
  private searchDue(l: Link, s: Search, now: number): number {
    if (s.busy) return Infinity;
    if (now < s.wait) return s.wait;
    s.busy = true;
    const body = encode(Sync, { ranges: [{ conversationId: fromHex(s.conversation), fromSeq: s.next }] });
    l.write(FrameType.Sync, body, l.request({ kind: "pull", pull: { timelines: new Map(), answered: 0, search: s } }));
    return Infinity;
  }

  /** Takes in a stretch: own messages in it were found by their ids already. */
  searched(s: Search, p: Synced | undefined, refused: GoChatError | undefined): void {
    s.busy = false;
    if (s.o.lane.search !== s) return;
    if (refused && (refused.retryable || refused.scope === "lane")) {
      s.wait = Date.now() + Math.max(refused.retryAfterMs, 1000);
    } else if (!refused && p && p.toSeq >= p.fromSeq && p.toSeq < p.lastSeq) {
      s.next = p.toSeq + 1n;
    } else { // the whole conversation was looked through, or there is none: it isn't stored
      s.o.lane.search = undefined;
      void this.restamp(s.o, new GoChatError(Code.IdUnknown, "", 0, true));
    }
  }

  /** Every receipt fails with err from here on. */
  stop(err: Error): void {
    for (const o of this.waiting.values()) this.settled(o.first, undefined, err);
  }
}
