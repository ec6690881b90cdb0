// Rooms: live conversations that the connection enters. Nothing of them is stored or pulled; what doesn't come is counted.

import { messageOf } from "../convert.js";
import { asError, ConnectionError, GoChatError } from "../errors.js";
import { fromHex } from "../ids.js";
import { decode } from "../wire/proto.js";
import { Deliver, methods, RoomNews, type Message as WireMessage, type Room as WireRoom } from "../wire/wire.gen.js";
import type { Engine } from "./engine.js";
import type { Link } from "./link.js";
import { wireConversation } from "./timelines.js";

/** Own messages above `applied` that are remembered, and messages that wait for the answer to ROOM_JOIN. */
const maxOwn = 256;
const maxEarly = 256;

/** How long to wait, at least, before a refused rejoin is tried again, in milliseconds. */
const minRejoin = 500;

/** How far a room that the client is in has come: for who goes on in its place. */
export interface RoomPlace {
  conversation: string;
  /** Up to there all is told, or known not to come; 0n: unknown. */
  applied: bigint;
  /** Own messages above it that are told. */
  own: bigint[];
}

/** A room that the client is in, or enters. */
class Hall {
  applied = 0n;
  readonly own = new Set<bigint>();
  /** Left out, or own ones without an answer, and not told yet; all of them above missedAbove. */
  missed = 0n;
  missedAbove = 0n;
  /** The last message that came while the listeners were behind. */
  dropped = 0n;
  /** What came before `applied` is known. */
  early: WireMessage[] | undefined = [];
  /** The client has been in it, and enters again by itself. */
  stays = false;
  /** The connection that is in it. */
  link: Link | undefined;
  /** Calls of joinRoom without an answer. */
  asked = 0;
}

const max = (a: bigint, b: bigint) => (a > b ? a : b);

export class Rooms {
  private readonly halls = new Map<string, Hall>();
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();

  constructor(private readonly e: Engine) {}

  /** Those that the client is in, while it is connected. */
  list(): string[] {
    return [...this.halls].filter(([, h]) => h.stays).map(([id]) => id);
  }

  /** Goes on where another client of the device was; before the first connection. */
  resume(places: RoomPlace[]): void {
    for (const { conversation, applied, own } of places) {
      const h = new Hall();
      h.stays = true;
      h.applied = applied;
      if (applied > 0n) h.early = undefined;
      for (const seq of own) h.own.add(seq);
      this.halls.set(conversation, h);
    }
  }

  /** Seqs mean nothing any more: another epoch. */
  forget(): void {
    for (const h of this.halls.values()) {
      h.applied = h.missed = h.dropped = 0n;
      h.own.clear();
      h.early = [];
    }
  }

  close(): void {
    for (const t of this.timers) clearTimeout(t);
    this.timers.clear();
  }

  /** The user enters a room; `ask` calls ROOM_JOIN on a connection, again on another one if the first is lost. */
  async join(id: string, ask: (entered: (l: Link, w: WireRoom) => void) => Promise<WireRoom>): Promise<WireRoom> {
    let h = this.halls.get(id);
    if (!h) this.halls.set(id, (h = new Hall()));
    const mine = h;
    mine.asked++;
    try {
      return await ask((l, w) => this.entered(id, mine, l, w));
    } catch (error) {
      if (mine.asked === 1 && !mine.stays && this.halls.get(id) === mine) {
        this.halls.delete(id);
        const l = this.e.link; // who has waited for long enough may be in it all the same, in a moment
        if (l && !(error instanceof GoChatError)) this.e.ask(l, methods.roomLeave, { conversationId: fromHex(id) }).catch(() => {});
      }
      throw error;
    } finally {
      mine.asked--;
    }
  }

  /** The user leaves a room, or isn't in it any more because of error. */
  left(id: string, error?: Error): void {
    const h = this.halls.get(id);
    if (!this.halls.delete(id) || !h!.stays) return;
    this.tellMissed(id, h!);
    this.e.dispatch.push("roomLeft", { conversation: id, error });
  }

  /** Enters the rooms again that the client was in on another connection. */
  rejoin(l: Link): void {
    for (const [id, h] of this.halls) if (h.stays && h.link !== l) this.enterAgain(l, id, h);
  }

  private enterAgain(l: Link, id: string, h: Hall): void {
    this.e.ask(l, methods.roomJoin, { conversationId: fromHex(id) }).then(
      (w) => this.entered(id, h, l, w),
      (why: unknown) => {
        const error = asError(why);
        if (this.e.link !== l || error instanceof ConnectionError || this.halls.get(id) !== h) return; // the next connection does it, or nobody wants it
        if (!(error instanceof GoChatError && error.retryable)) {
          this.e.log.warn(`room ${id} can't be entered again`, error);
          return this.left(id, error);
        }
        const timer = setTimeout(() => {
          this.timers.delete(timer);
          if (this.e.link === l && this.halls.get(id) === h && h.link !== l) this.enterAgain(l, id, h);
        }, Math.max(error.retryAfterMs, minRejoin));
        this.timers.add(timer);
      },
    );
  }

  /** Takes in the answer to ROOM_JOIN. */
  private entered(id: string, h: Hall, l: Link, w: WireRoom): void {
    if (this.halls.get(id) !== h || this.e.link !== l || h.link === l) return; // left, lost, or in it already
    h.link = l;
    h.stays = true;
    const early = h.early ?? [];
    if (h.early) {
      h.applied = max(h.applied, w.lastSeq); // what was said before isn't missed: history has it
      h.early = undefined;
    } else this.leaveOut(id, h, w.lastSeq);
    this.advance(h);
    this.tellCount(id, h, { count: w.count });
    for (const m of early) this.take(id, h, m);
  }

  private tellCount(id: string, h: Hall, n: { count: number; joined?: string[]; left?: string[]; joinedCount?: number; leftCount?: number }): void {
    const { count, joined = [], left = [], joinedCount = 0, leftCount = 0 } = n;
    this.e.dispatch.push("room", { conversation: id, count, joined, left, joinedCount, leftCount, lastSeq: h.applied });
  }

  /** Acts on a DELIVER with the flag "never pull". */
  delivered(body: Uint8Array): void {
    const d = decode(Deliver, body);
    const id = wireConversation(d.conversationId);
    const h = this.halls.get(id);
    for (const m of d.messages) {
      this.e.outbox.claim(id, m);
      if (h?.early) {
        if (h.early.length < maxEarly) h.early.push(m);
      } else if (h) this.take(id, h, m);
    }
  }

  private take(id: string, h: Hall, m: WireMessage): void {
    if (m.seq <= h.applied) return;
    if (this.e.dispatch.full) { // counted as soon as the listeners have come on
      h.dropped = m.seq;
      return;
    }
    const told = h.own.has(m.seq);
    this.leaveOut(id, h, m.seq - 1n);
    h.applied = m.seq;
    h.own.delete(m.seq);
    this.advance(h);
    if (!told) this.tell(id, m);
  }

  /** Takes in a message of this device's that was stored. It is told at once: it doesn't come again. */
  own(id: string, m: WireMessage): void {
    const h = this.halls.get(id);
    if (h && m.seq > h.applied) {
      if (h.own.has(m.seq)) return;
      if (h.own.size < maxOwn) h.own.add(m.seq);
      this.advance(h);
    } else if (h && h.missed > 0n && m.seq > h.missedAbove) h.missed--; // it was taken for one that was left out
    this.tell(id, m);
    this.settled(id);
  }

  private tell(id: string, m: WireMessage): void {
    this.e.dispatch.live({ type: "message", data: messageOf(m, id, this.e.user, "") });
  }

  /** Goes past own messages that follow without a hole. */
  private advance(h: Hall): void {
    if (!h.early) while (h.own.delete(h.applied + 1n)) h.applied++;
  }

  /** Nothing above `applied` and up to seq will come any more. */
  private leaveOut(id: string, h: Hall, seq: bigint): void {
    if (seq > h.applied) {
      let n = seq - h.applied;
      for (const own of h.own) if (own > h.applied && own <= seq) n--;
      if (h.missed === 0n) h.missedAbove = h.applied;
      h.missed += n;
      h.applied = seq;
    }
    for (const own of h.own) if (own <= h.applied) h.own.delete(own);
    this.tellMissed(id, h);
  }

  /** Tells of what was left out, but for as many as may be own messages whose answers are still to come. What finds no room among the events is told later. */
  private tellMissed(id: string, h: Hall): void {
    if (h.missed === 0n || this.e.dispatch.length >= this.e.cfg.queue) return;
    const n = h.missed - BigInt(this.e.outbox.tried(id));
    if (n <= 0n) return;
    this.e.dispatch.push("leftOut", { conversation: id, count: Number(n), upTo: h.applied });
    h.missed -= n;
  }

  /** Tells what could not be told before. */
  due(): void {
    if (this.e.dispatch.full) return;
    for (const [id, h] of this.halls) {
      if (h.dropped > h.applied) this.leaveOut(id, h, h.dropped);
      else if (h.missed > 0n) this.tellMissed(id, h);
    }
  }

  /** An own message was answered. */
  settled(id: string): void {
    const h = this.halls.get(id);
    if (h) this.tellMissed(id, h);
  }

  /** Acts on a signal about a room; throws if it can't be read. */
  news(id: string, data: Uint8Array): void {
    const h = this.halls.get(id);
    const w = decode(RoomNews, data);
    if (!h) return;
    if (w.code !== 0) return this.left(id, new GoChatError(w.code, "", 0, true));
    if (h.early) return; // its answer will tell
    if (w.lastSeq > h.applied) {
      this.leaveOut(id, h, w.lastSeq);
      this.advance(h);
    }
    if (w.count > 0 && this.e.dispatch.length < this.e.cfg.queue) this.tellCount(id, h, w);
  }
}
