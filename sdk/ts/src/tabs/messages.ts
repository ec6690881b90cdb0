// What tabs say to each other.

import type { Ack, AnyEvent, ConnectionState, Content, Message, Target, Waiting } from "../api.js";
import { ClosedError, ConnectionError, GoChatError, StoppedError } from "../errors.js";
import type { ListedState } from "../list.js";
import type { RoomPlace } from "../session/rooms.js";
import type { Synced } from "../wire/wire.gen.js";

/** An error on its way to another tab: the browser's copies of errors lose what they are. */
export interface PackedError {
  kind: "gochat" | "stopped" | "closed" | "connection" | "other";
  message: string;
  code?: number;
  retryAfterMs?: number;
  remote?: boolean;
  cause?: PackedError;
}

export function packError(e: Error): PackedError {
  if (e instanceof GoChatError) return { kind: "gochat", message: e.message, code: e.code, retryAfterMs: e.retryAfterMs, remote: e.remote };
  if (e instanceof StoppedError) return { kind: "stopped", message: e.message, cause: e.cause instanceof Error ? packError(e.cause) : undefined };
  return { kind: e instanceof ClosedError ? "closed" : e instanceof ConnectionError ? "connection" : "other", message: e.message };
}

export function unpackError(p: PackedError): Error {
  switch (p.kind) {
    case "gochat":
      return new GoChatError(p.code!, p.message, p.retryAfterMs, p.remote);
    case "stopped":
      return new StoppedError(p.cause ? unpackError(p.cause) : new Error(p.message));
    case "closed":
      return new ClosedError();
    case "connection":
      return new ConnectionError(p.message);
    default:
      return new Error(p.message);
  }
}

/** What a tab asks the one that has the connection. */
export type Ask =
  | { op: "call"; method: number; request: object }
  | { op: "range"; conversation: string; from: bigint; limit: number }
  | { op: "send"; to: Target; content: Content; seen: bigint | undefined; tail: Uint8Array }
  | { op: "cached"; conversation: string; before: bigint; limit: number }
  | { op: "outbox" }
  | { op: "connected" };

/** What it answers, by what was asked. */
export interface Answers {
  call: object;
  range: Synced;
  send: { id: string; ack?: Ack };
  cached: Message[];
  outbox: Waiting[];
  connected: void;
}

/** How the client of the tab that has the connection stands. */
export interface Standing {
  user: string;
  state: ConnectionState;
  /** The server's clock less ours. */
  offset: number;
  /** As the server said it last; 0: it has said nothing. */
  maxContent: number;
}

/** An event with its errors packed. */
export type PackedEvent = { type: AnyEvent["type"]; data: unknown };

export function packEvent(e: AnyEvent): PackedEvent {
  if ("error" in e.data && e.data.error) return { type: e.type, data: { ...e.data, error: packError(e.data.error) } };
  return e;
}

export function unpackEvent(e: PackedEvent): AnyEvent {
  const d = e.data as { error?: PackedError };
  if (d.error) return { type: e.type, data: { ...d, error: unpackError(d.error) } } as AnyEvent;
  return e as AnyEvent;
}

/** `leader` comes from the tab that has got the connection, `hello` from one that has come, both to all. */
export type TabMessage =
  | { t: "leader" }
  | { t: "hello"; from: string; visible: boolean }
  | { t: "bye"; from: string }
  | { t: "welcome"; to: string; standing: Standing; list: ListedState[]; told: Map<string, bigint>; rooms: RoomPlace[] }
  | { t: "standing"; standing: Standing }
  | { t: "event"; event: PackedEvent }
  | { t: "settled"; id: string; ack?: Ack; error?: PackedError }
  | { t: "ask"; from: string; id: number; ask: Ask }
  | { t: "answer"; to: string; id: number; value?: unknown; error?: PackedError }
  | { t: "signal"; to: Target; kind: number; data: Uint8Array | undefined }
  | { t: "visible"; from: string; visible: boolean };
