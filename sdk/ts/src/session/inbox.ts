// The conversations that moved since the sync mark, and signals of the server's own.

import type { CursorsMoved } from "../api.js";
import { announcementOf, conversationOf, profileOf } from "../convert.js";
import { GoChatError } from "../errors.js";
import { ConversationKind, conversationKind, fromHex } from "../ids.js";
import { decode } from "../wire/proto.js";
import { Broadcast, ConversationState, Cursors, methods, Profile, type Hint, type Signal } from "../wire/wire.gen.js";
import type { Engine } from "./engine.js";
import type { Link } from "./link.js";
import { jitter } from "./pace.js";
import { wireConversation } from "./timelines.js";

const Kind = { Typing: 1, Stopped: 2, Cursors: 3, Chunk: 4, State: 5, Profile: 6, Room: 7, Broadcast: 8 } as const;

/** "Typing" lapses without another. */
const typingLapse = 6000;

/** How long a client waits, at most, before it asks whether its user was among many who were taken out of a group and aren't all named: not all of them should ask at once. */
const maxDoubt = 4000;

export class Inbox {
  private readonly typing = new Map<string, { timer: ReturnType<typeof setTimeout>; user: string; conversation: string; device: string }>();

  constructor(private readonly e: Engine) {}

  /** Takes in a page of the conversations that moved, and goes on to the next one, or stores the new mark. */
  page(l: Link, states: ConversationState[], cursor: string, mark: bigint): void {
    for (const s of states) this.heard(s);
    l.pages.mark ||= mark; // the first page's: it was taken before anything was read
    if (cursor !== "") return this.ask(l, cursor);
    if (l.pages.mark !== 0n) this.e.setSession({ syncMark: l.pages.mark });
    l.pages.busy = false;
    l.pages.mark = 0n;
  }

  private ask(l: Link, cursor: string): void {
    l.pages.busy = true;
    this.e.ask(l, methods.conversations, { cursor, syncMark: this.e.session.syncMark }).then(
      (a) => this.page(l, a.conversations, a.cursor, a.syncMark),
      (error: Error) => {
        if (this.e.link !== l) return;
        // The mark stays where it is, so nothing is missed; once more from the start.
        this.e.log.warn("reading the inbox", error);
        l.pages.busy = false;
        l.pages.mark = 0n;
        l.pages.due = true;
        l.pages.wait = Date.now() + 1000 + (error instanceof GoChatError ? error.retryAfterMs : 0);
        this.e.wake();
      },
    );
  }

  /** Starts reading the inbox anew if that is due. */
  due(l: Link, now: number): number {
    if (!l.pages.due || l.pages.busy) return Infinity;
    if (now < l.pages.wait) return l.pages.wait;
    l.pages.due = false;
    this.ask(l, "");
    return Infinity;
  }

  /** Takes in how a conversation stands. Its head is stored before the sync mark is. */
  heard(s: ConversationState): void {
    const t = this.e.timelines.get(wireConversation(s.conversationId));
    const c = conversationOf(this.e.user, s);
    if (c.peer) t.peer = c.peer;
    if (s.lastSeq >= t.told) {
      t.told = s.lastSeq;
      t.left = s.leftSeq;
    }
    const head = s.leftSeq !== 0n && s.leftSeq < s.lastSeq ? s.leftSeq : s.lastSeq;
    this.e.timelines.stands(t, head, s.firstSeq > s.joinedSeq ? s.firstSeq : s.joinedSeq);
    if (conversationKind(t.id) !== ConversationKind.Self) this.e.dispatch.push("conversation", c); // else told by its events
  }

  hinted(l: Link, m: Hint): void {
    if (m.all) l.pages.due = true;
    for (const h of m.heads) this.e.timelines.hinted(wireConversation(h.conversationId), h.seq);
  }

  /** Tells of positions that moved. The rest of a conversation that this device didn't know of, because it was hidden when the device came, is asked for. */
  private cursors(c: CursorsMoved): void {
    this.e.dispatch.push("cursors", c);
    const kind = conversationKind(c.conversation);
    if (kind !== ConversationKind.Direct && kind !== ConversationKind.Group) return;
    const t = this.e.timelines.get(c.conversation);
    if (!t.known && !t.asking) this.askState(t.id);
  }

  /** Asks how a conversation stands that messages alone don't tell of: what a group is called, and the user's role in it. */
  askState(conversation: string): void {
    const l = this.e.link;
    if (!l) return; // whoever connects is told
    const t = this.e.timelines.get(conversation);
    t.asking = true;
    this.e.ask(l, methods.conversation, { conversationId: fromHex(conversation) }).then(
      (s) => {
        t.asking = false;
        this.heard(s);
      },
      (error) => {
        t.asking = false;
        this.e.log.info(`asking for conversation ${conversation}`, error);
        if (error instanceof GoChatError && error.retryable) this.doubt(conversation, Math.max(error.retryAfterMs, 500));
      },
    );
  }

  /** Has a conversation asked for after a while, in milliseconds, unless it is going to be. */
  doubt(conversation: string, after = jitter(maxDoubt)): void {
    const l = this.e.link;
    if (!l || l.doubts.has(conversation)) return;
    l.doubts.set(conversation, Date.now() + after);
    this.e.wake();
  }

  /** Asks for the conversations whose time has come, and returns when to look again. */
  doubtsDue(l: Link, now: number): number {
    let next = Infinity;
    for (const [conversation, at] of l.doubts) {
      if (now < at) {
        next = Math.min(next, at);
        continue;
      }
      l.doubts.delete(conversation);
      this.askState(conversation);
    }
    return next;
  }

  /** Acts on a SIGNAL. Those that can't be read are left out, and so are all while too many events wait. */
  signalled(m: Signal): void {
    const e = this.e;
    if (e.dispatch.length >= e.cfg.queue && m.kind !== Kind.Room) return;
    try {
      if (m.kind === Kind.Room) return e.rooms.news(wireConversation(m.conversationId), m.data);
      if (m.kind === Kind.Broadcast) return e.dispatch.push("announcement", announcementOf(decode(Broadcast, m.data)));
      if (m.kind === Kind.Profile) return e.dispatch.push("profile", profileOf(decode(Profile, m.data)));
      if (m.kind === Kind.State) return this.heard(decode(ConversationState, m.data));
      const conversation = wireConversation(m.conversationId);
      const [user, device] = [m.senderId, m.senderDevice];
      switch (m.kind) {
        case Kind.Cursors:
          return this.cursors({ conversation, user, own: user === e.user, ...decode(Cursors, m.data) });
        case Kind.Chunk:
          return e.drafts.arrived(conversation, user, device, m.data);
        case Kind.Typing:
        case Kind.Stopped:
          return this.types(conversation, user, device, m.kind === Kind.Typing);
        default:
          return e.dispatch.push("signal", { conversation, user, device, kind: m.kind, data: m.data });
      }
    } catch (error) {
      e.log.warn(`a signal of kind ${m.kind} that can't be read`, error);
    }
  }

  private types(conversation: string, user: string, device: string, on: boolean): void {
    const key = `${conversation} ${device.length} ${device} ${user}`;
    const before = this.typing.get(key);
    clearTimeout(before?.timer);
    this.typing.delete(key);
    if (on && this.typing.size < 1024) {
      const timer = setTimeout(() => this.types(conversation, user, device, false), typingLapse);
      this.typing.set(key, { timer, user, conversation, device });
    }
    if (on !== !!before) this.e.dispatch.push("typing", { conversation, user, device, on });
  }

  /** A message of somebody's has come: nobody types it any more. */
  typingOver(conversation: string, user: string): void {
    for (const t of [...this.typing.values()]) if (t.conversation === conversation && t.user === user) this.types(conversation, user, t.device, false);
  }

  close(): void {
    for (const t of this.typing.values()) clearTimeout(t.timer);
    this.typing.clear();
  }
}
