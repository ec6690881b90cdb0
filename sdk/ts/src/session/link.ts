// One connection.

import { asError, ConnectionError, GoChatError } from "../errors.js";
import type { Connection, ConnectionHandler } from "../transport/transport.js";
import { registry } from "../wire/codes.gen.js";
import { encodeFrame, FrameReader, FrameType, hardMaxFrame, type Frame } from "../wire/frame.js";
import { decode } from "../wire/proto.js";
import { Error as ErrorBody, Kick, type Connack, type Limits } from "../wire/wire.gen.js";
import type { Departure } from "./move.js";
import { burstBytes, burstSends, jitter, Pace } from "./pace.js";
import type { Outgoing } from "./outbox.js";
import type { Pull, Timeline } from "./timelines.js";

/** The reason that the server gave for ending a connection, or that we have for never making it again. */
export class Dismissal extends Error {
  override name = "Dismissal";
  /** Other servers that it named, which is leaving itself, in the order in which they are tried. */
  elsewhere: string[] = [];
  constructor(readonly told: GoChatError) {
    super(told.message, { cause: told });
  }

  /** Connecting again is of no use. */
  get final(): boolean {
    return this.told.class === "terminal";
  }
}

/** What an ERROR without request id, or a KICK, tells. */
export function farewell(f: Frame): Dismissal {
  return new Dismissal(f.type === FrameType.Kick ? told(decode(Kick, f.body)) : errorOf(f.body));
}

const told = (m: { code: number; reason: string; retryAfterMs?: number }) => new GoChatError(m.code, m.reason, m.retryAfterMs ?? 0, true);

/** What an ERROR tells. */
export const errorOf = (body: Uint8Array): GoChatError => told(decode(ErrorBody, body));

/** The error that a WebSocket's close code stands for, if the server's own ERROR didn't come. */
function byCloseCode(code: number | undefined): GoChatError | undefined {
  if (code === undefined || code < 4000) return undefined;
  for (const [number, info] of registry) if (info.ws === code) return new GoChatError(number, "", 0, true);
  return undefined;
}

/** A transport's connection cut into frames. Frames wait until somebody listens. */
export class Wire implements ConnectionHandler {
  private readonly reader = new FrameReader();
  private listener: ((f: Frame) => void) | undefined;
  private connection: Connection | undefined;
  /** It has ended. */
  over = false;
  /** How the transport says that it ended, while frames that came before wait. */
  private ending: Error | undefined;
  private resolve!: (why: Error) => void;
  /** Resolves when the connection has ended, with why. */
  readonly ended: Promise<Error> = new Promise((resolve) => (this.resolve = resolve));

  attach(c: Connection): void {
    this.connection = c;
    if (this.over) c.close();
  }

  get buffered(): number {
    return this.connection?.buffered ?? 0;
  }

  data(bytes: Uint8Array): void {
    if (this.over) return;
    this.reader.push(bytes);
    this.drain();
  }

  closed(why: Error, code?: number): void {
    const t = byCloseCode(code);
    const error = t ? new Dismissal(t) : why;
    if (this.listener) this.end(error);
    else this.ending ??= error; // what came before is read first: it may say why
  }

  /** Hands frames over from now on. What fn throws ends the connection. */
  listen(fn: ((f: Frame) => void) | undefined): void {
    this.listener = fn;
    this.drain();
  }

  maxFrame(max: number): void {
    this.reader.max = Math.min(max, hardMaxFrame);
  }

  private drain(): void {
    try {
      while (this.listener && !this.over) {
        const f = this.reader.next();
        if (!f) break;
        this.listener(f);
      }
    } catch (e) {
      this.end(asError(e));
    }
    if (this.listener && this.ending) this.end(this.ending);
  }

  write(frame: Uint8Array): void {
    if (!this.over) this.connection?.send(frame);
  }

  /** Closes it, for a reason. */
  end(why: Error): void {
    if (this.over) return;
    this.over = true;
    this.listener = undefined;
    this.connection?.close();
    this.resolve(why);
  }
}

/** Who waits for an answer. */
export type Waiter =
  | { kind: "send"; o: Outgoing }
  | { kind: "pull"; pull: Pull }
  | { kind: "call"; done: (body: Uint8Array | undefined, error: Error | undefined) => void; method: number };

/** Ids up to there make frames shorter. */
const maxCheapId = (1 << 21) - 1;

/** A session that stands. */
export class Link {
  readonly requests = new Map<number, Waiter>();
  private lastReq = 0;
  /** SENDs without an answer. */
  inflight = 0;
  /** Silence allowed to us, in milliseconds. */
  readonly heartbeat: number;
  /** What the server takes as a wish for it. */
  readonly beatMin: number;
  readonly beatMax: number;
  /** PINGs that were answered. */
  beats = 0;
  /** Given up because nothing was heard. */
  silent = false;
  readonly limits: Limits;
  /** SENDs, and their bytes. */
  readonly sends: Pace;
  readonly bytes: Pace;
  lastWrite: number;
  lastRead: number;
  /** A PING was sent to learn whether the connection lives; not answered by then: it doesn't. */
  probeBy = 0;
  leaving: Departure | undefined;
  /** SYNCs without an answer, and ranges of one at most. */
  pulls = 0;
  ranges = 32;
  /** Named in a RECVACK. */
  readonly acked = new Set<Timeline>();
  /** When to ask whether the user is still in these conversations. */
  readonly doubts = new Map<string, number>();
  /** Reading the inbox since the sync mark: from the start as soon as none is under way (`due`), not before `wait`; `mark` is stored after the last page. */
  readonly pages = { due: false, busy: false, wait: 0, mark: 0n };

  constructor(readonly wire: Wire, ack: Connack, now: number) {
    this.heartbeat = Math.max(ack.heartbeatSeconds, 1) * 1000;
    this.beatMin = ack.heartbeatMinSeconds * 1000;
    this.beatMax = (ack.heartbeatMaxSeconds || ack.heartbeatSeconds) * 1000;
    // The first PING is shifted more than later ones: many clients connect together after a restart.
    this.lastRead = now;
    this.lastWrite = now - jitter(this.heartbeat / 3);
    this.limits = ack.limits ?? { maxFrame: 0, maxContent: 0, maxExt: 0, maxMentions: 0, maxInflight: 0, sendsPerSecond: 0, maxPage: 0, bytesPerSecond: 0 };
    if (this.limits.maxInflight === 0) this.limits.maxInflight = 64;
    this.sends = new Pace(this.limits.sendsPerSecond, burstSends);
    this.bytes = new Pace(this.limits.bytesPerSecond, burstBytes);
  }

  /** Registers who waits for an answer and returns the request's id. */
  request(w: Waiter): number {
    for (;;) {
      if (++this.lastReq > maxCheapId) this.lastReq = 1;
      if (!this.requests.has(this.lastReq)) {
        this.requests.set(this.lastReq, w);
        return this.lastReq;
      }
    }
  }

  /** Writes a frame and returns its size. */
  write(type: number, body?: Uint8Array, requestId?: number, flags = 0): number {
    const f = encodeFrame(type, body, requestId, flags);
    this.wire.write(f);
    this.lastWrite = Date.now() - jitter(this.heartbeat / 6);
    return f.length;
  }

  giveUp(why: string): void {
    this.wire.end(new ConnectionError(why));
  }
}
