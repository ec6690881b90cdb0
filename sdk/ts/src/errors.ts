// What can go wrong, as types.

import { Code, registry, type Class, type Scope } from "./wire/codes.gen.js";

/**
 * An error of the protocol's registry: told by the server, or found here by the same rules. `code` is its number (see
 * {@link Code}), `name` its name in the registry.
 */
export class GoChatError extends Error {
  readonly code: number;
  /** Whether the server told it. */
  readonly remote: boolean;
  private readonly told: number;

  /** @param reason for people; what the registry says if left out. @param retryAfterMs as the server told it; 0: it didn't. */
  constructor(code: number, reason = "", retryAfterMs = 0, remote = false) {
    super(reason || registry.get(code)?.text || `error ${code}`);
    this.code = code;
    this.told = retryAfterMs;
    this.remote = remote;
    this.name = registry.get(code)?.name ?? `code_${code}`;
  }

  /** What ends: the one message or request, the lane (what is sent to one conversation), or the connection. */
  get scope(): Scope {
    return registry.get(this.code)?.scope ?? (this.code < 2000 ? "connection" : this.code < 3000 ? "lane" : "message");
  }

  /** Whether trying again is of use, and how. A code that isn't known is taken by its thousand. */
  get class(): Class {
    return registry.get(this.code)?.class ?? (this.code >= 2000 && this.code < 3000 ? "retry_same" : "terminal");
  }

  get retryable(): boolean {
    return this.class !== "terminal";
  }

  /** Milliseconds to wait before trying again, at least. */
  get retryAfterMs(): number {
    return this.told || (registry.get(this.code)?.retryAfterMs ?? 0);
  }

  /** The HTTP status of such an error. */
  get status(): number {
    return registry.get(this.code)?.http ?? 500;
  }
}

/** The client was closed. */
export class ClosedError extends Error {
  override name = "ClosedError";
  constructor() {
    super("the client is closed");
  }
}

/** The client has given up, because of `cause`: see the event `stopped`. */
export class StoppedError extends Error {
  override name = "StoppedError";
  constructor(cause: Error) {
    super(`the client has stopped: ${cause.message}`, { cause });
  }
}

/** The connection, or the attempt to make one, failed; the client tries again by itself. */
export class ConnectionError extends Error {
  override name = "ConnectionError";
}

/** A call took longer than its timeout, or its signal was aborted. What it asked for may have happened. */
export class TimeoutError extends Error {
  override name = "TimeoutError";
}

export { Code };

/** Whatever was thrown, as an Error. */
export const asError = (e: unknown): Error => (e instanceof Error ? e : new Error(String(e)));
