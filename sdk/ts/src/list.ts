// The user's conversations as they stand now: what an application shows at its left.

import { MessageType, Role, type AnyEvent, type Conversation, type CursorsMoved, type GroupChanged, type Membership, type Message } from "./api.js";
import { ConversationKind, conversationKind, compareBytes } from "./ids.js";
import { utf8 } from "./wire/proto.js";

/** Where unread messages are no longer counted. */
export const unreadCap = 100;

interface Arrival {
  seq: bigint;
  /** Mentions the user. */
  calls: boolean;
}

/** One conversation of a list, as it is stored: unread and mentions are the server's, as of the message asOf; what came since is counted here. */
export interface ListedState {
  conversation: Conversation;
  asOf: bigint;
  /** Unread messages above asOf that count, ascending, the newest unreadCap. */
  above: Arrival[];
  /** The messages that told of these: what the server said before doesn't take it back. */
  told?: Told;
}

interface Told {
  name?: bigint;
  avatar?: bigint;
  nickname?: bigint;
  role?: bigint;
  /** The preview is no older than this. */
  preview?: bigint;
}

const max = (...all: bigint[]): bigint => all.reduce((a, b) => (a > b ? a : b));

/** What a message of type Membership says; undefined for other messages. */
export function membershipOf(m: Message): Membership | undefined {
  if (m.type !== MessageType.Membership) return undefined;
  const w = object(m.text) as Partial<Membership> | undefined;
  return w && { ...w, do: String(w.do), users: Array.isArray(w.users) ? w.users : [], count: Number(w.count) || 0 };
}

/** What a message of type Group says; undefined for other messages. */
export function groupChangeOf(m: Message): GroupChanged | undefined {
  return m.type === MessageType.Group ? (object(m.text) as GroupChanged | undefined) : undefined;
}

/** The name that a message of type Nickname says its sender has in the group; undefined for other messages. */
export function nicknameOf(m: Message): string | undefined {
  const w = m.type === MessageType.Nickname ? (object(m.text) as { nickname?: string } | undefined) : undefined;
  return typeof w?.nickname === "string" ? w.nickname : undefined;
}

function object(text: string): object | undefined {
  try {
    const v: unknown = JSON.parse(text);
    return typeof v === "object" && v !== null ? v : undefined;
  } catch {
    return undefined;
  }
}

const roleOf = (name: unknown): number => (name === "member" ? Role.Member : name === "admin" ? Role.Admin : name === "owner" ? Role.Owner : Role.None);

const counts = (m: Message) => !m.noCount && (m.type < 64 || m.type >= 1000);
const mentionsMe = (m: Message, me: string) => !!m.mentionAll || !!m.mentions?.includes(me);

/** A conversation of which nothing is known. */
export function unknownConversation(id: string): Conversation {
  return {
    id, users: [], peer: "", name: "", avatar: "", members: 0, role: 0, nickname: "", lastSeq: 0n, firstSeq: 0n, readSeq: 0n, recvSeq: 0n, unread: 0, mentions: 0,
    lastTime: 0, preview: "", previewFrom: "", previewType: 0, peerReadSeq: 0n, peerRecvSeq: 0n, joinedSeq: 0n, leftSeq: 0n, pinned: false, muted: false, hidden: false,
    settingsVersion: 0n,
  };
}

/**
 * The conversations, put together from a client's events. A client keeps one (`client.conversations`), and its store
 * keeps that over restarts.
 */
export class ConversationList {
  private me = "";
  private readonly convs = new Map<string, Required<ListedState>>();
  private readonly watchers = new Set<(changed: string) => void>();

  /** Calls fn after each change with the conversation's id, "" if all may have changed. Returns how to end that. */
  watch(fn: (changed: string) => void): () => void {
    this.watchers.add(fn);
    return () => this.watchers.delete(fn);
  }

  /** One conversation, hidden ones and those that were left too. */
  get(conversation: string): Conversation | undefined {
    const v = this.convs.get(conversation);
    return v && now(v);
  }

  /**
   * The conversations to be shown, pinned ones first, then by the latest activity. Left out are those that are hidden,
   * were left, or have no message yet, and the user's own timeline.
   */
  all(): Conversation[] {
    const out: Conversation[] = [];
    for (const v of this.convs.values()) {
      const c = v.conversation;
      if (!c.hidden && c.leftSeq === 0n && c.lastSeq > 0n && conversationKind(c.id) !== ConversationKind.Self) out.push(now(v));
    }
    return out.sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.lastTime - a.lastTime || (a.id < b.id ? -1 : 1));
  }

  /** Unread messages of all conversations to be shown that aren't muted. */
  get unread(): number {
    return this.all().reduce((n, c) => n + (c.muted ? 0 : c.unread), 0);
  }

  /** Takes an event in. Those that say nothing of conversations are ignored. Returns the id of the conversation that changed, if one did. */
  apply(e: AnyEvent): string | undefined {
    const changed = this.take(e);
    if (changed !== undefined) this.tell(changed);
    return changed;
  }

  private tell(changed: string): void {
    for (const w of [...this.watchers]) w(changed);
  }

  private take(e: AnyEvent): string | undefined {
    switch (e.type) {
      case "connected":
        this.me = e.data.user;
        return undefined;
      case "resynced":
        this.convs.clear();
        return "";
      case "conversation":
        return this.changed(e.data);
      case "message":
        return conversationKind(e.data.conversation) === ConversationKind.Room ? undefined : this.received(e.data); // rooms are in no list
      case "cursors":
        return this.moved(e.data);
      default:
        return undefined;
    }
  }

  /** Who the user is, if it is known before `connected`. */
  user(me: string): void {
    this.me = me;
  }

  /** One conversation as it is to be stored. */
  stored(conversation: string): ListedState | undefined {
    const v = this.convs.get(conversation);
    return v && copy(v);
  }

  /** All of them. */
  snapshot(): ListedState[] {
    return [...this.convs.keys()].map((id) => this.stored(id)!);
  }

  /** Takes in what snapshot or a store returned, in the place of what is there. */
  restore(states: ListedState[]): void {
    this.convs.clear();
    for (const s of states) this.convs.set(s.conversation.id, copy(s));
    this.tell("");
  }

  private conv(id: string): Required<ListedState> {
    let v = this.convs.get(id);
    if (!v) this.convs.set(id, (v = { conversation: unknownConversation(id), asOf: 0n, above: [], told: {} }));
    return v;
  }

  /** Merges how the server says that a conversation stands into what came since it looked. */
  private changed(c: Conversation): string {
    const v = this.conv(c.id);
    const old = v.conversation;
    count(v, c.readSeq, c.lastSeq, c.unread, c.mentions);
    const next: Conversation = { ...c, readSeq: old.readSeq, unread: old.unread, mentions: old.mentions };
    if (c.lastSeq < old.lastSeq) {
      const { lastSeq, lastTime, leftSeq } = old;
      Object.assign(next, { lastSeq, lastTime, leftSeq, hidden: false }); // there was a message since
    }
    const told = v.told;
    const later = (seq: bigint | undefined) => seq !== undefined && seq > c.lastSeq;
    if (later(told.name)) next.name = old.name;
    if (later(told.avatar)) next.avatar = old.avatar;
    if (later(told.nickname)) next.nickname = old.nickname;
    if (later(told.role)) next.role = old.role;
    if (later(told.preview)) {
      const { preview, previewFrom, previewType } = old;
      Object.assign(next, { preview, previewFrom, previewType });
    } else told.preview = c.lastSeq;
    if (c.settingsVersion < old.settingsVersion) {
      next.pinned = old.pinned;
      next.muted = old.muted;
      next.settingsVersion = old.settingsVersion;
      next.hidden = old.hidden && next.lastSeq === old.lastSeq;
    }
    next.recvSeq = max(next.recvSeq, old.recvSeq, next.readSeq);
    next.peerReadSeq = max(next.peerReadSeq, old.peerReadSeq);
    next.peerRecvSeq = max(next.peerRecvSeq, old.peerRecvSeq);
    v.conversation = next;
    return c.id;
  }

  private received(m: Message): string {
    const v = this.conv(m.conversation);
    const c = v.conversation;
    if (c.leftSeq !== 0n && m.seq > c.leftSeq) { // back again: what is unread begins here
      c.leftSeq = 0n;
      c.role = Role.Member;
      v.told.role = m.seq;
      c.unread = c.mentions = 0;
      v.above = [];
      v.asOf = m.seq - 1n;
    }
    if (m.peer !== "" && c.peer === "") {
      c.peer = m.peer;
      c.users = [this.me, m.peer].sort((a, b) => compareBytes(utf8(a), utf8(b)));
    }
    const newest = m.seq > c.lastSeq;
    if (newest) {
      c.lastSeq = m.seq;
      c.lastTime = m.time;
      c.hidden = false;
      if (m.type < 64 || m.type > 127) { // changes of a group leave the preview as it is
        c.previewFrom = m.sender;
        c.previewType = m.type;
        v.told.preview = m.seq;
        c.preview = m.type >= MessageType.Image && m.type <= MessageType.Video ? "" : m.text;
      }
    }
    if (newest) this.tells(v, m); // else what the server told counts
    if (m.seq > v.asOf && m.seq > c.readSeq && !m.own && counts(m)) {
      const last = v.above[v.above.length - 1];
      if (!last || m.seq > last.seq) {
        if (v.above.length === unreadCap) v.above.shift();
        v.above.push({ seq: m.seq, calls: mentionsMe(m, this.me) });
      }
    }
    return m.conversation;
  }

  /** Takes in what a message says of a group and of the user in it. */
  private tells(v: Required<ListedState>, m: Message): void {
    const { conversation: c, told } = v;
    const w = membershipOf(m);
    let role: number | undefined;
    if (w?.users.includes(this.me)) {
      if (w.do === "leave" || w.do === "remove") {
        c.leftSeq = m.seq;
        role = Role.None;
      } else if (w.do === "add" || w.do === "join") role = Role.Member;
      else if (w.do === "role") role = roleOf(w.role);
    } else if (m.own && w?.do === "role" && w.role === "owner") role = Role.Admin; // who hands the group over
    if (role !== undefined) {
      c.role = role;
      told.role = m.seq;
    }
    const g = groupChangeOf(m);
    if (typeof g?.name === "string") {
      c.name = g.name;
      told.name = m.seq;
    }
    if (typeof g?.avatar === "string") {
      c.avatar = g.avatar;
      told.avatar = m.seq;
    }
    const nickname = m.own ? nicknameOf(m) : undefined;
    if (nickname !== undefined) {
      c.nickname = nickname;
      told.nickname = m.seq;
    }
  }

  private moved(e: CursorsMoved): string {
    const v = this.conv(e.conversation);
    const c = v.conversation;
    if (!e.own) {
      c.peerReadSeq = max(c.peerReadSeq, e.readSeq);
      c.peerRecvSeq = max(c.peerRecvSeq, e.recvSeq);
    } else {
      count(v, e.readSeq, e.lastSeq, e.unread, e.mentions);
      c.recvSeq = max(c.recvSeq, e.recvSeq);
    }
    return e.conversation;
  }
}

function copy(v: ListedState): Required<ListedState> {
  return { conversation: { ...v.conversation }, asOf: v.asOf, above: v.above.slice(), told: { ...v.told } };
}

function now(v: ListedState): Conversation {
  return {
    ...v.conversation,
    unread: Math.min(v.conversation.unread + v.above.length, unreadCap),
    mentions: Math.min(v.conversation.mentions + v.above.filter((a) => a.calls).length, unreadCap),
  };
}

/** Sets what the server counted up to asOf, unless that is older than what is known. */
function count(v: ListedState, read: bigint, asOf: bigint, unread: number, mentions: number): void {
  const c = v.conversation;
  if (read < c.readSeq || (read === c.readSeq && asOf < v.asOf)) return;
  c.readSeq = read;
  c.unread = unread;
  c.mentions = mentions;
  v.asOf = asOf;
  v.above = v.above.filter((a) => a.seq > asOf && a.seq > read);
}
