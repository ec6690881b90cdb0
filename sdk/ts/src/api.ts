// The types of what applications say and hear. Seqs are bigint, message ids strings of decimal digits, conversation ids 32
// hexadecimal digits, client message ids UUIDs, times Unix milliseconds.

import type { GoChatError } from "./errors.js";
import type { Encryption } from "./wire/wire.gen.js";

export type { Encryption };

/** What a sender says. Only what is there is sent; a message without type is text. */
export interface Content {
  /** 1 text, 2 image, 3 file, 4 voice, 5 video, 64 to 127 the server's, from 1000 on an integrator's own. */
  type?: number;
  /** The text, or the JSON that the type calls for. */
  text?: string;
  /** What isn't text. */
  data?: Uint8Array;
  /** User ids, at most `limits.maxMentions`. */
  mentions?: string[];
  mentionAll?: boolean;
  /** The message of the same conversation that this one answers. */
  replyToSeq?: bigint;
  threadSeq?: bigint;
  /** Not to be shown after. */
  expiresAt?: number;
  /** Raises no unread number. */
  noCount?: boolean;
  /** Wakes no phone. */
  noPush?: boolean;
  originDevice?: string;
  /** An integrator's own, at most 1 KiB. */
  ext?: Uint8Array;
  encryption?: Encryption;
}

/** Message types. */
export const MessageType = { Text: 1, Image: 2, File: 3, Voice: 4, Video: 5, Membership: 64, Group: 65, Nickname: 66, AccountEvent: 80 } as const;

/** A stored message. */
export interface Message extends Content {
  conversation: string;
  /** Of a direct conversation: the other user, if known. */
  peer: string;
  /** Its place in the conversation: 1, 2, 3, … without a hole. */
  seq: bigint;
  id: string;
  sender: string;
  /** As Receipt.id; "" of the server's own. */
  clientMsgId: string;
  /** The user's own, from whichever device. */
  own: boolean;
  time: number;
  type: number;
  text: string;
}

/** What a message of type Membership says; its sender is who did it. */
export interface Membership {
  do: "create" | "add" | "join" | "leave" | "remove" | "role" | string;
  /** At most 16 of them. */
  users: string[];
  count: number;
  role?: "member" | "admin" | "owner" | string;
}

/** What a message of type Group says: what changed. */
export interface GroupChanged {
  name?: string;
  avatar?: string;
  /** base64 */
  ext?: string;
  join?: number;
}

/** Where a message was stored. */
export interface Ack {
  conversation: string;
  seq: bigint;
  messageId: string;
  /** It was stored by an earlier try. */
  duplicate: boolean;
}

/** A message's way to the server. */
export interface Receipt {
  /** Also in the events `sent` and `failed`, and Message.clientMsgId unless the message had to get a new id. */
  id: string;
  /** Where it was stored; rejects with a GoChatError if it was refused for good, or with StoppedError or ClosedError if the client won't tell any more. */
  stored: Promise<Ack>;
}

/** A message that waits in the outbox. */
export interface Waiting {
  /** As Receipt.id. */
  id: string;
  /** "" before the user of a direct one knows who they are themselves. */
  conversation: string;
  to: Target;
  /** When it was written. */
  time: number;
  content: Content;
}

/** Where a message goes: to a conversation, or to the direct one with a user, which need not exist yet. */
export type Target = { conversation: string } | { user: string };

/** 0: not in it. Admins bring people in, take members out, change the group; the owner gives roles too. */
export const Role = { None: 0, Member: 1, Admin: 2, Owner: 3 } as const;

/** One of the user's conversations. */
export interface Conversation {
  id: string;
  /** Of a direct one: both users, sorted. */
  users: string[];
  /** Of a direct one: the other user. */
  peer: string;
  /** Of a group, as the next four. */
  name: string;
  avatar: string;
  members: number;
  /** One of Role. */
  role: number;
  /** The user's own name in it. */
  nickname: string;
  lastSeq: bigint;
  /** What is below is gone by retention. */
  firstSeq: bigint;
  readSeq: bigint;
  recvSeq: bigint;
  /** Exact up to 100, then 100. */
  unread: number;
  /** Of the unread ones, those that mention the user, or everyone. */
  mentions: number;
  /** 0: no message yet */
  lastTime: number;
  /** The beginning of the last message's content; "" of types 2 to 5. */
  preview: string;
  previewFrom: string;
  /** 0: no message yet */
  previewType: number;
  /** How far the other side of a direct one has read and received. */
  peerReadSeq: bigint;
  peerRecvSeq: bigint;
  joinedSeq: bigint;
  /** 0: still in */
  leftSeq: bigint;
  pinned: boolean;
  muted: boolean;
  /** Out of the list until the next message. */
  hidden: boolean;
  /** Grows with each change of the three above. */
  settingsVersion: bigint;
}

/** A page of a conversation. */
export interface HistoryPage {
  /** Ascending. */
  messages: Message[];
  /** Older ones exist (paging back), or newer ones (paging forward). */
  more: boolean;
}

export interface NewGroup {
  name: string;
  avatar?: string;
  ext?: Uint8Array;
  users?: string[];
  /** Anyone may join. */
  open?: boolean;
  /** An integrator's own name of the group, from which its id follows: creating it again finds the one that is there. */
  key?: string;
}

export interface GroupUpdate {
  name?: string;
  avatar?: string;
  ext?: Uint8Array;
  open?: boolean;
}

/** What a change of a group came to. */
export interface GroupChange {
  conversation: string;
  /** Of the last message that tells of it; 0: nothing had to change. */
  seq: bigint;
  /** Users, or 1. */
  changed: number;
  /** Whom it left out (the first 100), with a code of the registry. */
  refused: { user: string; code: number }[];
}

export interface Group {
  conversation: string;
  name: string;
  avatar: string;
  ext: Uint8Array;
  open: boolean;
  key: string;
  members: number;
  role: number;
  nickname: string;
  createdBy: string;
  created: number;
}

export interface GroupMember {
  user: string;
  role: number;
  joinedSeq: bigint;
  nickname: string;
}

/** A live conversation in which nobody is a member: who is in it hears what is said, as long as they are connected. */
export interface Room {
  conversation: string;
  name: string;
  title: string;
  /** Users who are in it. */
  count: number;
  /** Between two messages of one user; 0: no slow mode. */
  slowSeconds: number;
  /** Of what is kept: history reads it. */
  firstSeq: bigint;
  lastSeq: bigint;
  /** This user is one. */
  moderator: boolean;
  /** This user may not write before; 0: may. */
  mutedUntil: number;
  moderators: string[];
  createdBy: string;
  created: number;
}

export interface NewRoom {
  /** 1 to 120 bytes, without spaces around it. The room's id follows from it. */
  name: string;
  title?: string;
  slowSeconds?: number;
}

export interface RoomUpdate {
  title?: string;
  slowSeconds?: number;
}

/** What moderators do in a room. Who is banned is put out at once. Who made the room makes moderators. */
export const Moderation = { Mute: 1, Unmute: 2, Ban: 3, Unban: 4, MakeModerator: 5, UnmakeModerator: 6 } as const;

/** Who is in a room has changed, within the last second or so, or the client has entered it, for the first time or again. */
export interface RoomChanged {
  conversation: string;
  /** Users who are in it. */
  count: number;
  /** Some of those who came and went. */
  joined: string[];
  left: string[];
  joinedCount: number;
  leftCount: number;
  /** What was said up to here was told, or won't be. */
  lastSeq: bigint;
}

/** The operator of the installation tells everybody who is connected something. It is told once, and nowhere kept. */
export interface Announcement {
  id: string;
  title: string;
  text: string;
  ext: Uint8Array;
  time: number;
}

export interface Settings {
  pinned?: boolean;
  muted?: boolean;
  hidden?: boolean;
}

/** What a user shows of themselves; without one all is empty and version 0. */
export interface Profile {
  user: string;
  name: string;
  avatar: string;
  ext: Uint8Array;
  version: bigint;
}

export interface ProfileChange {
  name?: string;
  avatar?: string;
  ext?: Uint8Array;
}

export interface Device {
  id: string;
  /** One of DeviceKind. */
  kind: number;
  online: boolean;
  /** This one. */
  current: boolean;
  /** 0: unknown */
  signedIn: number;
  /** Of one that isn't online: when it last signed in or refreshed its tokens; 0: unknown. */
  lastSeen: number;
}

/** `idle`: not started; `offline`: waiting for the network or for the next try. */
export type ConnectionState = "idle" | "connecting" | "connected" | "offline" | "stopped";

/** A user has read and received up to here. Lower numbers than before are late. */
export interface CursorsMoved {
  conversation: string;
  user: string;
  /** The user's own position, moved on any device; else the other side's of a direct conversation. */
  own: boolean;
  readSeq: bigint;
  recvSeq: bigint;
  /** Own: up to where unread and mentions are counted. */
  lastSeq: bigint;
  unread: number;
  mentions: number;
}

/** What happened to the user's account. Each device gets every event once and in order. */
export interface AccountChanged {
  /** signed_in, signed_out, revoked, password_changed, or what a later server tells of. */
  what: string;
  /** Whose session it is, or who changed the password; "": every device's. */
  device: string;
  /** "phone", …; "": unknown */
  kind: string;
  /** The device that did it, if it was another one. */
  by: string;
  time: number;
}

/** The events of a client, by name. */
export interface Events {
  /**
   * The next message of its conversation, once and in order; the user's own too, those of this device included, in their place. Of a room: what is said while the
   * client is in it, in the order in which it comes.
   */
  message: Message;
  /** The server has stored a message of this device. */
  sent: { id: string; ack: Ack };
  /** A message of this device was refused for good, and has left the outbox. */
  failed: { id: string; error: GoChatError };
  /** How a conversation stands at the server now. `conversations` of the client merges it. */
  conversation: Conversation;
  cursors: CursorsMoved;
  /** Somebody types, or has stopped, or nothing was heard of it for 6 s. */
  typing: { conversation: string; user: string; device: string; on: boolean };
  /** Somebody is writing this; `done`: it is over (the message has come, or nothing came for half a minute). */
  draft: { conversation: string; user: string; device: string; text: string; done: boolean };
  /** Any other signal: an integrator's own from 1000 on. */
  signal: { conversation: string; user: string; device: string; kind: number; data: Uint8Array };
  /** A profile has changed: the user's own on another device, or that of somebody with a direct conversation. */
  profile: Profile;
  account: AccountChanged;
  room: RoomChanged;
  /**
   * So many messages of a room, all of them up to `upTo`, didn't come: there were too many for everybody, or for this client, or it was away. They aren't fetched;
   * history has them for a while.
   */
  leftOut: { conversation: string; count: number; upTo: bigint };
  /** The client is in a room no longer: because of error (banned_here, or it is gone), or because it left. */
  roomLeft: { conversation: string; error: Error | undefined };
  announcement: Announcement;
  /** The device was away for so long that the server holds no messages below firstSeq any more, some of which it never got. */
  gone: { conversation: string; firstSeq: bigint };
  /** The server's store was restored from a backup: seqs that the application knows mean nothing any more, all messages come again. */
  resynced: { storeEpoch: string };
  state: { state: ConnectionState };
  /** The session stands. */
  connected: { user: string; server: string; resumed: boolean };
  /** The connection ended because of error; the client connects again after retryMs. */
  disconnected: { error: Error; retryMs: number };
  /** The client won't connect again by itself: usually a GoChatError (signed out, the same device connected elsewhere, a token that is no good). */
  stopped: { error: Error };
}

export type EventName = keyof Events;

/** An event as the async iterator gives it. */
export type AnyEvent = { [K in EventName]: { type: K; data: Events[K] } }[EventName];

/** May return a promise: later events wait for it, and a message counts as received when it has resolved. */
export type Listener<K extends EventName> = (data: Events[K]) => void | Promise<void>;

export interface Logger {
  info(message: string, detail?: unknown): void;
  warn(message: string, detail?: unknown): void;
  error(message: string, detail?: unknown): void;
}
