// What a client must not lose between two runs, and what it would rather not fetch again.

import type { Message } from "../api.js";
import type { ListedState } from "../list.js";

/** What CONNECT names of earlier sessions. */
export interface SessionState {
  user: string;
  storeEpoch: bigint;
  syncMark: bigint;
  resumeToken: string;
}

/** Where a conversation stands on this device. */
export interface Cursor {
  /** The application has, or will never get, all up to here. */
  applied: bigint;
  /** The last seq that is known to exist. */
  head: bigint;
}

/** A message that waits for its SENDACK. */
export interface Outgoing {
  /** The client message id, a UUID. */
  id: string;
  /** "" if the message names a user and the client didn't know its own user yet. */
  conversation: string;
  /** That the message names, or "". */
  user: string;
  /** Of the SEND. */
  body: Uint8Array;
  interactive: boolean;
  /** The conversation's `applied` when the message was made: it is stored above, if at all. */
  base: bigint;
}

/** All that a store keeps, but for the messages. */
export interface State {
  session: SessionState;
  /** In the order in which they were put. */
  outbox: Outgoing[];
  cursors: Map<string, Cursor>;
  /** The list of conversations. */
  listed: ListedState[];
}

/** What is stored as one. */
export interface Change {
  /** First forget all cursors, conversations and messages. */
  reset?: boolean;
  cursors?: Map<string, Cursor>;
  listed?: ListedState[];
  session?: SessionState;
  /** For the cache; ascending within a conversation. */
  messages?: Message[];
}

/**
 * A store. Calls come one after the other for each of outbox and the rest, but not always after the last has ended: a
 * store keeps their order. What it was given it may keep; what it returned belongs to the caller. After an error it may
 * hold what was to be stored or not: the client goes on, and what it can't store it refuses to send. A change that failed it gives
 * again with the next one.
 */
export interface Store {
  load(): Promise<State>;
  /** Stores a message that waits to be sent, behind all others. Once it has resolved the message survives a crash. */
  putOutgoing(o: Outgoing): Promise<void>;
  /** Puts o in the place of the message `old`, as durably. */
  replaceOutgoing(old: string, o: Outgoing): Promise<void>;
  /** Removes a message that was answered. It may come back after a crash: it is sent again then, and the server knows it. */
  dropOutgoing(id: string): Promise<void>;
  /** Stores all of a change or nothing, as seen after a crash. */
  save(change: Change): Promise<void>;
  /**
   * The newest cached messages of a conversation below seq `before` (0: all), at most `limit`, ascending. A cache may forget; it never
   * holds another message than the conversation's.
   */
  messages(conversation: string, before: bigint, limit: number): Promise<Message[]>;
  /** Releases the store; it is not used afterwards. */
  close(): Promise<void>;
}

export const noSession = (): SessionState => ({ user: "", storeEpoch: 0n, syncMark: 0n, resumeToken: "" });

/** How many messages of each conversation are kept unless told otherwise. */
export const defaultCache = 500;
