// What an application does with a client, whether it has a connection of its own or shares that of another tab.

import type {
  AnyEvent, Ack, ConnectionState, Content, Conversation, Device, EventName, Group, GroupChange, GroupMember, GroupUpdate, HistoryPage, Listener, Message, NewGroup, NewRoom,
  Profile, ProfileChange, Receipt, Room, RoomUpdate, Settings, Target, Waiting,
} from "./api.js";
import { conversationBytes, conversationOf, messageOf, peerOf, profileOf, roomOf } from "./convert.js";
import { Draft } from "./draft.js";
import type { Emitter } from "./events.js";
import { GoChatError } from "./errors.js";
import { conversationKind, ConversationKind, directConversation, random, toHex } from "./ids.js";
import type { ConversationList } from "./list.js";
import { Code } from "./wire/codes.gen.js";
import { utf8, type Init } from "./wire/proto.js";
import { methods, type GroupChangeResponse, type Method, type Synced } from "./wire/wire.gen.js";

/** How long a call may take. */
export interface CallOptions {
  /** Ends the waiting, with its reason; what was asked for may still happen. */
  signal?: AbortSignal;
}

const time = (ms: bigint) => Number(ms);

/**
 * One user's chat on one device. Calls wait for a connection if there is none, and are repeated if it is lost: give them a
 * signal to end that. They reject with a GoChatError if the server refuses, with StoppedError or ClosedError if there will be
 * no connection any more.
 */
export abstract class Chat {
  /** The user's conversations as they stand now. */
  abstract readonly conversations: ConversationList;
  protected abstract readonly emitter: Emitter;

  /** Who the user is; "" before the first connection ever. */
  abstract get user(): string;
  abstract get state(): ConnectionState;
  /** The server's clock, in Unix milliseconds. */
  abstract get serverTime(): number;
  /** How many bytes a message's text, data and encryption may have here, together; 0 before the first connection of this run. */
  abstract get maxContent(): number;

  /** The rooms that the client is in, while it is connected. */
  abstract get rooms(): string[];

  /** Connects, and goes on connecting, until close: once your listeners are there. */
  abstract start(): this;
  /** Resolves as soon as there is a connection; rejects if there can't be one any more. */
  abstract connected(options?: CallOptions): Promise<void>;

  /** Calls a method of the protocol. */
  abstract call<Q, A>(method: Method<Q, A>, request: Init<Q>, options?: CallOptions): Promise<A>;
  /** A SYNC of one range, from a seq on. */
  protected abstract range(conversation: string, from: bigint, limit: number, options?: CallOptions): Promise<Synced>;
  protected abstract enqueue(to: Target, content: Content, seen: bigint | undefined): Promise<Receipt>;
  /** Messages from the cache of this device: the newest below `before` (0: all), ascending. It asks nobody. */
  abstract cached(conversation: string, before?: bigint, limit?: number): Promise<Message[]>;
  /** The messages that wait for their ack, oldest first in each conversation. */
  abstract outbox(): Promise<Waiting[]>;
  /**
   * Tells the devices that are connected now something that is not stored. It is dropped while there is no connection, or too
   * much waits for it.
   */
  abstract signal(to: Target, kind: number, data?: Uint8Array): void;
  /** Tells the server whether somebody is looking at the app. While nobody is, it sends no signals and gathers messages. */
  abstract setBackground(background: boolean): void;
  /** Ends it; what waits in the outbox stays there. */
  abstract close(): Promise<void>;
  /** A number for a draft that is above those of this device before. */
  abstract draftNumber(): bigint;

  /** Calls fn for each event of a name, until the function that is returned is called. */
  on<K extends EventName>(name: K, fn: Listener<K>): () => void {
    return this.emitter.on(name, fn);
  }

  /** Like on, for the next event alone. */
  once<K extends EventName>(name: K, fn: Listener<K>): () => void {
    const off = this.on(name, (data) => {
      off();
      return fn(data);
    });
    return off;
  }

  /**
   * The events of these names (all, if none is named), from now on, until the loop is left or the client closed. A message counts as
   * received when the loop asks for what comes after: as with listeners that return promises, later events wait for slow loops.
   */
  events(...names: EventName[]): AsyncIterableIterator<AnyEvent> {
    return this.emitter.stream(names);
  }

  /**
   * Stores a message in the outbox; the client then sends it, in the order of the calls, until the server has answered. It works
   * without a connection. Rejects if the message isn't in the outbox.
   *
   * @param content a text, or more
   * @param seen for a person who has read the conversation up to there: the user's read position moves with the message
   */
  send(to: Target, content: string | Content, seen?: bigint): Promise<Receipt> {
    return this.enqueue(to, typeof content === "string" ? { text: content } : content, seen);
  }

  /** Like send, and waits until the server has stored it. */
  async deliver(to: Target, content: string | Content): Promise<Ack> {
    return (await this.send(to, content)).stored;
  }

  /** Tells that the user types, or has stopped. Repeat it every few seconds: it lapses after 6. */
  typing(to: Target, on = true): void {
    this.signal(to, on ? 1 : 2);
  }

  /** Begins a message that others see while it is being written. */
  draft(to: Target): Draft {
    return new Draft(this, to, this.draftNumber());
  }

  /** The id of the direct conversation with a user; "" before the user knows who they are themselves. */
  direct(user: string): string {
    return this.user && directConversation(this.user, user);
  }

  /** All of the user's conversations as they stand at the server, latest activity first; not the user's own timeline. */
  async inbox(options?: CallOptions): Promise<Conversation[]> {
    const all: Conversation[] = [];
    for await (const page of this.inboxPages(options)) all.push(...page);
    return all;
  }

  /** The same, a page at a time. A conversation in which something happens meanwhile may come twice: the later state counts. */
  async *inboxPages(options?: CallOptions): AsyncGenerator<Conversation[]> {
    for (let cursor = ""; ; ) {
      const a = await this.call(methods.conversations, { cursor }, options);
      yield a.conversations.map((s) => conversationOf(this.user, s)).filter((c) => conversationKind(c.id) !== ConversationKind.Self);
      if (!(cursor = a.cursor)) return;
    }
  }

  /**
   * The newest messages below seq `before` (0: from the head), at most `limit` (0: as many as the server likes), and whether older ones exist.
   * It moves no cursor.
   */
  async history(conversation: string, before = 0n, limit = 0, options?: CallOptions): Promise<HistoryPage> {
    if (before > 0n && limit > 0) { // what the cache has without a hole needs no server
      const have = await this.cached(conversation, before, limit);
      if (have.length === limit && have[0]!.seq === before - BigInt(limit)) return { messages: have, more: have[0]!.seq > 1n };
    }
    const a = await this.call(methods.history, { conversationId: conversationBytes(conversation), beforeSeq: before, limit }, options);
    const peer = this.conversations.get(conversation)?.peer ?? "";
    return { messages: a.messages.map((m) => messageOf(m, conversation, this.user, peer)), more: a.more };
  }

  /** The oldest messages above seq `after`, at most about `limit`, and whether newer ones exist: for going on from a place in the past. */
  async historyAfter(conversation: string, after: bigint, limit = 50, options?: CallOptions): Promise<HistoryPage> {
    for (;;) {
      const page = await this.range(conversation, after + 1n, limit, options);
      const peer = this.conversations.get(conversation)?.peer ?? peerOf(this.user, page.users);
      const messages = page.messages.map((m) => messageOf(m, conversation, this.user, peer));
      const more = page.toSeq >= page.fromSeq && page.toSeq < page.lastSeq;
      if (messages.length > 0 || !more) return { messages, more };
      after = page.toSeq; // nothing of this stretch is the user's to see
    }
  }

  /** The pages of a conversation, newest first, each ascending: for endless upward scrolling. */
  async *historyPages(conversation: string, before = 0n, limit = 50, options?: CallOptions): AsyncGenerator<Message[]> {
    for (;;) {
      const page = await this.history(conversation, before, limit, options);
      if (page.messages.length > 0) yield page.messages;
      if (!page.more || page.messages.length === 0) return;
      before = page.messages[0]!.seq;
    }
  }

  /** The direct conversation with a user, made if need be. To send a message to somebody it isn't needed. */
  async openDirect(user: string, options?: CallOptions): Promise<Conversation> {
    const a = await this.call(methods.openDirect, { userId: user }, options);
    if (!a.conversation) throw new GoChatError(Code.Internal, "the answer names no conversation");
    return conversationOf(this.user, a.conversation);
  }

  /** One conversation as it stands at the server. */
  async conversation(conversation: string, options?: CallOptions): Promise<Conversation> {
    return conversationOf(this.user, await this.call(methods.conversation, { conversationId: conversationBytes(conversation) }, options));
  }

  /** Moves the user's read position up to seq. Returns where it is then, and how many messages are unread. */
  async markRead(conversation: string, seq: bigint, options?: CallOptions): Promise<{ readSeq: bigint; unread: number }> {
    return this.call(methods.read, { conversationId: conversationBytes(conversation), readSeq: seq }, options);
  }

  /** Seqs above `after` of messages that mention the user, or everyone, ascending, and whether there are others above. */
  async mentions(conversation: string, after = 0n, limit = 0, options?: CallOptions): Promise<{ seqs: bigint[]; more: boolean }> {
    const a = await this.call(methods.mentions, { conversationId: conversationBytes(conversation), afterSeq: after, limit }, options);
    return { seqs: a.mentions.map((m) => m.seq), more: a.more };
  }

  /** Changes the user's own settings of a conversation, for all devices, and returns how it stands then. */
  async setSettings(conversation: string, s: Settings, options?: CallOptions): Promise<Conversation> {
    const fields = (s.pinned === undefined ? 0 : 1) | (s.muted === undefined ? 0 : 2) | (s.hidden === undefined ? 0 : 4);
    return conversationOf(this.user, await this.call(methods.settings, { conversationId: conversationBytes(conversation), fields, ...s }, options));
  }

  /** Keeps a conversation at the top of the list, or no longer. */
  pin(conversation: string, on = true): Promise<Conversation> {
    return this.setSettings(conversation, { pinned: on });
  }

  /** Keeps a conversation from calling for attention, or no longer. */
  mute(conversation: string, on = true): Promise<Conversation> {
    return this.setSettings(conversation, { muted: on });
  }

  /** Takes a conversation out of the list until its next message, or puts it back. */
  hide(conversation: string, on = true): Promise<Conversation> {
    return this.setSettings(conversation, { hidden: on });
  }

  /** Makes a group whose owner the user is. */
  async createGroup(g: NewGroup, options?: CallOptions): Promise<GroupChange> {
    const users = g.users ?? [];
    const first = fitting(users);
    // A random key, so that a request which is repeated after a lost connection doesn't make a second group.
    const key = g.key || toHex(random(15));
    const all = change(await this.call(methods.groupCreate, { name: g.name, key, avatar: g.avatar, ext: g.ext, userIds: first, join: g.open ? 1 : 0 }, options));
    if (first.length === users.length) return all;
    return and(all, await this.addMembers(all.conversation, users.slice(first.length), options));
  }

  /** Brings users into a group, however many. After an error it can be called again, and does what is left. */
  addMembers(conversation: string, users: string[], options?: CallOptions): Promise<GroupChange> {
    return this.changeMembers(methods.groupAdd, conversation, users, options);
  }

  /** Takes users out of a group, however many. */
  removeMembers(conversation: string, users: string[], options?: CallOptions): Promise<GroupChange> {
    return this.changeMembers(methods.groupRemove, conversation, users, options);
  }

  private async changeMembers(method: typeof methods.groupAdd, conversation: string, users: string[], options?: CallOptions): Promise<GroupChange> {
    let all: GroupChange = { conversation, seq: 0n, changed: 0, refused: [] };
    while (users.length > 0) {
      const part = fitting(users);
      all = and(all, change(await this.call(method, { conversationId: conversationBytes(conversation), userIds: part }, options)));
      users = users.slice(part.length);
    }
    return all;
  }

  /** Joins a group that anyone may join. */
  async joinGroup(conversation: string, options?: CallOptions): Promise<GroupChange> {
    return change(await this.call(methods.groupJoin, { conversationId: conversationBytes(conversation) }, options));
  }

  /** Leaves a group. An owner makes somebody else the owner first. */
  async leaveGroup(conversation: string, options?: CallOptions): Promise<GroupChange> {
    return change(await this.call(methods.groupLeave, { conversationId: conversationBytes(conversation) }, options));
  }

  /** Gives a member another role. Making somebody the owner makes the user an admin. */
  async setRole(conversation: string, user: string, role: number, options?: CallOptions): Promise<GroupChange> {
    return change(await this.call(methods.groupRole, { conversationId: conversationBytes(conversation), userId: user, role }, options));
  }

  /** Sets what a group is. */
  async updateGroup(conversation: string, u: GroupUpdate, options?: CallOptions): Promise<GroupChange> {
    const fields = (u.name === undefined ? 0 : 1) | (u.avatar === undefined ? 0 : 2) | (u.ext === undefined ? 0 : 4) | (u.open === undefined ? 0 : 8);
    const { name, avatar, ext } = u;
    return change(await this.call(methods.groupUpdate, { conversationId: conversationBytes(conversation), fields, name, avatar, ext, join: u.open ? 1 : 0 }, options));
  }

  /** Sets the user's own name in a group; "": none. */
  async setNickname(conversation: string, nickname: string, options?: CallOptions): Promise<GroupChange> {
    return change(await this.call(methods.nickname, { conversationId: conversationBytes(conversation), nickname }, options));
  }

  /** What a group is. */
  async group(conversation: string, options?: CallOptions): Promise<Group> {
    const a = await this.call(methods.group, { conversationId: conversationBytes(conversation) }, options);
    return {
      conversation, name: a.name, avatar: a.avatar, ext: a.ext, open: a.join === 1, key: a.key, members: a.members, role: a.role, nickname: a.nickname, createdBy: a.createdBy,
      created: time(a.createdTime),
    };
  }

  /** A page of a group's members, in the order of their ids' bytes. `cursor`: "" for the first page, then the last page's; "" on the last one. */
  async members(conversation: string, cursor = "", limit = 0, options?: CallOptions): Promise<{ members: GroupMember[]; cursor: string; count: number }> {
    const a = await this.call(methods.members, { conversationId: conversationBytes(conversation), cursor, limit }, options);
    return { members: a.members.map((m) => ({ user: m.userId, role: m.role, joinedSeq: m.joinedSeq, nickname: m.nickname })), cursor: a.cursor, count: a.count };
  }

  /** All members of a group, one after the other. */
  async *allMembers(conversation: string, options?: CallOptions): AsyncGenerator<GroupMember> {
    for (let cursor = ""; ; ) {
      const page = await this.members(conversation, cursor, 0, options);
      yield* page.members;
      if (!(cursor = page.cursor)) return;
    }
  }

  /** Makes the room of that name, whose moderator the user is, or returns the one that there is. Who may is the installation's to say. */
  async createRoom(r: NewRoom, options?: CallOptions): Promise<Room> {
    return roomOf(await this.call(methods.roomCreate, { name: r.name, title: r.title, slowSeconds: r.slowSeconds }, options));
  }

  /**
   * Enters a room (see roomConversation): from now on `message` comes for what is said in it, and `room` for who comes and goes. The client stays in it over lost
   * connections, until leaveRoom, `roomLeft` or close; what is said while it isn't connected doesn't come, and is told as `leftOut`. A room that isn't there is
   * no_such_conversation.
   */
  async joinRoom(conversation: string, options?: CallOptions): Promise<Room> {
    return roomOf(await this.call(methods.roomJoin, { conversationId: conversationBytes(conversation) }, options));
  }

  /** Leaves a room. */
  async leaveRoom(conversation: string, options?: CallOptions): Promise<void> {
    await this.call(methods.roomLeave, { conversationId: conversationBytes(conversation) }, options);
  }

  /** How a room stands at the server. */
  async room(conversation: string, options?: CallOptions): Promise<Room> {
    return roomOf(await this.call(methods.room, { conversationId: conversationBytes(conversation) }, options));
  }

  /** A page of who is in a room now, in the order of their ids' bytes. `cursor` as in members. */
  async roomMembers(conversation: string, cursor = "", limit = 0, options?: CallOptions): Promise<{ users: string[]; cursor: string; count: number }> {
    const a = await this.call(methods.roomMembers, { conversationId: conversationBytes(conversation), cursor, limit }, options);
    return { users: a.userIds, cursor: a.cursor, count: a.count };
  }

  /** Sets what a room is, which the user moderates. */
  async updateRoom(conversation: string, u: RoomUpdate, options?: CallOptions): Promise<Room> {
    const fields = (u.title === undefined ? 0 : 1) | (u.slowSeconds === undefined ? 0 : 2);
    return roomOf(await this.call(methods.roomUpdate, { conversationId: conversationBytes(conversation), fields, title: u.title, slowSeconds: u.slowSeconds }, options));
  }

  /** Does one of Moderation to a user in a room. `seconds`: how long a mute or ban holds; 0: until it is taken back. */
  async moderate(conversation: string, user: string, action: number, seconds = 0, options?: CallOptions): Promise<Room> {
    return roomOf(await this.call(methods.roomModerate, { conversationId: conversationBytes(conversation), userId: user, action, seconds }, options));
  }

  /** The profiles of users, however many, by their ids; who has none is left out. */
  async profiles(users: string[], options?: CallOptions): Promise<Map<string, Profile>> {
    const found = new Map<string, Profile>();
    while (users.length > 0) {
      const asked = users.slice(0, 100);
      const a = await this.call(methods.profiles, { userIds: asked }, options);
      for (const p of a.profiles) found.set(p.userId, profileOf(p));
      users = users.slice(a.answered > 0 ? Math.min(asked.length, a.answered) : asked.length);
    }
    return found;
  }

  /** Changes the user's own profile and returns it as it is then. */
  async setProfile(p: ProfileChange, options?: CallOptions): Promise<Profile> {
    const fields = (p.name === undefined ? 0 : 1) | (p.avatar === undefined ? 0 : 2) | (p.ext === undefined ? 0 : 4);
    return profileOf(await this.call(methods.profileSet, { fields, ...p }, options));
  }

  /** Keeps a user from writing to this one in their direct conversation. */
  async block(user: string, options?: CallOptions): Promise<void> {
    await this.call(methods.block, { userId: user, blocked: true }, options);
  }

  async unblock(user: string, options?: CallOptions): Promise<void> {
    await this.call(methods.block, { userId: user, blocked: false }, options);
  }

  /** Whom the user has blocked, in the order of their ids' bytes. */
  async blocked(options?: CallOptions): Promise<string[]> {
    const all: string[] = [];
    for (let cursor = ""; ; ) {
      const a = await this.call(methods.blocks, { cursor }, options);
      all.push(...a.userIds);
      if (!(cursor = a.cursor)) return all;
    }
  }

  /** The user's devices that are signed in or connected, those seen last first. */
  async devices(options?: CallOptions): Promise<Device[]> {
    const a = await this.call(methods.devices, {}, options);
    return a.devices.map((d) => ({ id: d.deviceId, kind: d.kind, online: d.online, current: d.current, signedIn: time(d.signedInTime), lastSeen: time(d.lastSeenTime) }));
  }

  /** Signs out another device of the user's, at once. Returns whether there was such a device. */
  async signOut(device: string, options?: CallOptions): Promise<boolean> {
    if (device === "") throw new GoChatError(Code.BadRequest, "no device is named");
    return (await this.call(methods.signOut, { deviceId: device }, options)).signedOut > 0;
  }

  /** Signs out all of the user's other devices, and returns how many those were. */
  async signOutOthers(options?: CallOptions): Promise<number> {
    return (await this.call(methods.signOut, {}, options)).signedOut;
  }
}

function change(a: GroupChangeResponse): GroupChange {
  return { conversation: toHex(a.conversationId), seq: a.seq, changed: a.changed, refused: a.refused.map((r) => ({ user: r.userId, code: r.code })) };
}

function and(a: GroupChange, b: GroupChange): GroupChange {
  return { conversation: a.conversation, seq: b.seq || a.seq, changed: a.changed + b.changed, refused: [...a.refused, ...b.refused] };
}

/** As many of the first users as one request may name: 10,000, and what fits into its 112 KiB beside the rest. */
function fitting(users: string[]): string[] {
  let bytes = 0;
  let n = 0;
  for (; n < users.length && n < 10_000; n++) {
    bytes += utf8(users[n]!).length + 2;
    if (bytes > 104 << 10) break;
  }
  return users.slice(0, Math.max(n, 1));
}
