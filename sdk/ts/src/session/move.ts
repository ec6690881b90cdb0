// Opening sessions, and leaving a server that is leaving itself.

import { asError, ConnectionError, GoChatError, TimeoutError } from "../errors.js";
import { Code } from "../wire/codes.gen.js";
import { encodeFrame, FrameType } from "../wire/frame.js";
import { decode, encode } from "../wire/proto.js";
import { Connack, Connect, Drain } from "../wire/wire.gen.js";
import type { Engine } from "./engine.js";
import { Dismissal, farewell, Wire, type Link } from "./link.js";
import { jitter } from "./pace.js";

/** The protocol version that the client speaks. */
export const version = 1;

/** A session that stands on a connection that nobody reads yet. */
export interface Opened {
  wire: Wire;
  ack: Connack;
  /** Our time when the server told its own. */
  at: number;
}

/** How many servers a client tries that only other servers than the one that leaves have named. */
const maxNamed = 16;

/** How a client leaves a server. */
export interface Departure {
  /** Other servers, in the order in which they are tried; none: this one comes back. */
  others: string[];
  /** How many of them were named by those that were tried. */
  named: number;
  /** With others: when to begin to go; without: when to go at the latest. */
  at: number;
  /** This server closes the connection then. */
  until: number;
  /** How long to wait then before coming back. */
  after: number;
  /** The session elsewhere. */
  ready: Opened | undefined;
  /** Resolves when nobody tries any more to get one; undefined: not begun. */
  moving: Promise<void> | undefined;
  /** The server has named others: ends a pause between attempts. */
  again: (() => void) | undefined;
  closing: boolean;
}

/** Connects and opens a session. */
export async function open(e: Engine, address: string, expired: boolean): Promise<Opened> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(new TimeoutError(`no session within ${e.cfg.dialTimeoutMs} ms`)), e.cfg.dialTimeoutMs);
  const unhook = e.onClose(() => abort.abort(new ConnectionError("the client is closed")));
  const wire = new Wire();
  const aborted = new Promise<never>((_, reject) => abort.signal.addEventListener("abort", () => reject(asError(abort.signal.reason))));
  aborted.catch(() => {});
  let token = "";
  try {
    try {
      const t = typeof e.cfg.token === "string" ? e.cfg.token : e.cfg.token({ expired });
      token = await Promise.race([t, aborted]);
    } catch (error) {
      if (e.session.resumeToken === "" || abort.signal.aborted) throw error;
      e.log.info("no token, trying the resume token", error);
    }
    const dialling = e.cfg.transport(address, wire, abort.signal);
    dialling.then((c) => wire.attach(c), () => {});
    await Promise.race([dialling, aborted]);
    try {
      return await Promise.race([shake(e, wire, token), aborted]);
    } catch (error) {
      if (!(error instanceof Dismissal)) e.strays.gaveUp();
      throw error;
    }
  } catch (error) {
    wire.end(asError(error));
    if (token === "" && error instanceof Dismissal && error.told.code === Code.Unauthenticated) {
      // Not final: the token that could not be had is still to be tried.
      if (!e.link) e.setSession({ resumeToken: "" }); // who has a session isn't parted from it by another server
      throw new ConnectionError("the resume token is no good any more");
    }
    throw error;
  } finally {
    clearTimeout(timer);
    unhook();
  }
}

async function shake(e: Engine, wire: Wire, token: string): Promise<Opened> {
  const s = e.session;
  const hello = encode(Connect, {
    version, token, deviceId: e.cfg.device, deviceKind: e.cfg.kind, resumeToken: s.resumeToken, syncMark: s.syncMark, storeEpoch: s.storeEpoch, client: e.cfg.client,
    background: e.background, heartbeatSeconds: Math.round((e.cfg.heartbeatMs || e.beat.wish) / 1000),
  });
  const begun = Date.now();
  wire.write(encodeFrame(FrameType.Connect, hello));
  let elsewhere: string[] = [];
  const ack = await new Promise<Connack>((resolve, reject) => {
    void wire.ended.then((why) => {
      if (why instanceof Dismissal) why.elsewhere = elsewhere;
      reject(why);
    });
    wire.listen((f) => {
      if (f.type === FrameType.Connack) {
        wire.listen(undefined);
        resolve(decode(Connack, f.body));
      } else if (f.type === FrameType.Drain) elsewhere = shuffled(decode(Drain, f.body).alternatives);
      else if (f.type === FrameType.Error || f.type === FrameType.Kick) throw farewell(f);
    });
  });
  const at = begun + (Date.now() - begun) / 2;
  if (ack.version !== version) throw new Dismissal(new GoChatError(Code.VersionUnsupported, `the server answered with version ${ack.version}`));
  if (e.user !== "" && e.user !== ack.userId) throw new Dismissal(new GoChatError(Code.BadRequest, "the store belongs to another user"));
  if (ack.limits?.maxFrame) wire.maxFrame(ack.limits.maxFrame);
  return { wire, ack, at };
}

const shuffled = (list: string[]): string[] => list.map((a) => [Math.random(), a] as const).sort((a, b) => a[0] - b[0]).map(([, a]) => a);

/** For how long after an attempt that was given up a server may still act on its CONNECT, in milliseconds, and how many are remembered. */
const strayTime = 5 * 60_000;
const maxStrays = 4;

/**
 * Attempts to connect that were given up before the server had answered: it may have been frozen, or slow, and opens the session later for
 * nobody, in the place of the one that the client has by then.
 */
export class Strays {
  private times: number[] = []; // when they were given up, the oldest first

  /** An attempt failed that had reached a server, which hadn't answered. */
  gaveUp(): void {
    this.times = [...this.times, Date.now()].slice(-maxStrays);
  }

  /**
   * Returns an error with which a connection ended, as one that isn't final if the client may have been replaced by an attempt of its own.
   * Each attempt explains one replacement, one more is somebody else's.
   */
  explain(error: Error): Error {
    if (!(error instanceof Dismissal) || error.told.code !== Code.Replaced) return error;
    for (let given; (given = this.times.shift()) !== undefined; ) {
      if (Date.now() - given <= strayTime) return new ConnectionError("replaced, maybe by an attempt to connect that was given up");
    }
    return error;
  }
}

/**
 * Acts on a DRAIN. Where there are other servers the client goes to one of them, at a random moment, before it leaves this one. Where there
 * are none, this one goes down and comes back: the client takes in the answers that are under way, goes, and comes back at a random moment.
 * A later DRAIN of the same server corrects the time, and the others if it names any.
 */
export function leave(l: Link, m: Drain, now: number): void {
  const d = (l.leaving ??= { others: [], named: 0, at: 0, until: 0, after: jitter(m.jitterMs), ready: undefined, moving: undefined, again: undefined, closing: false });
  d.until = now + m.deadlineMs;
  if (m.alternatives.length > 0) {
    d.others = shuffled(m.alternatives);
    d.named = 0;
    if (!d.moving) d.at = now + jitter(Math.min(m.jitterMs, m.deadlineMs));
    d.again?.();
  } else if (d.others.length === 0) d.at = now + m.deadlineMs * 0.75;
}

/** Does what is due of leaving. Returns whether nothing new is asked of this server, and when to look again. */
export function leaveDue(e: Engine, l: Link, now: number): { going: boolean; next: number } {
  const d = l.leaving;
  if (!d) return { going: false, next: Infinity };
  if (d.others.length > 0) {
    if (d.moving) return { going: false, next: Infinity }; // on its way; this server serves until then
    if (now < d.at) return { going: false, next: d.at };
    d.moving = move(e, l, d);
    return { going: false, next: Infinity };
  }
  if (l.requests.size === 0 || now >= d.at) depart(e, l, d);
  return { going: true, next: d.at };
}

/** Says what is to be said, and closes. */
function depart(e: Engine, l: Link, d: Departure): void {
  if (d.closing) return;
  d.closing = true;
  e.timelines.writeRecvAcks(l);
  l.giveUp("the server is leaving");
}

/**
 * Opens a session with one of the other servers, then leaves this one. While none of them takes it, the client stays, and tries again: the
 * connection that it has is good until the server closes it. An attempt that is under way then is waited for: it may be what had the
 * connection closed.
 */
async function move(e: Engine, l: Link, d: Departure): Promise<void> {
  const wait = new Map<string, number>(); // not to be tried before
  let expired = false;
  for (let failures = 0; ; failures++) {
    const named = d.others;
    for (const address of named) {
      if (l.wire.over) return;
      if (Date.now() < (wait.get(address) ?? 0)) continue;
      try {
        d.ready = await open(e, address, expired);
        depart(e, l, d);
        return;
      } catch (error) {
        e.log.info(`moving to ${address}`, error);
        expired = error instanceof Dismissal && error.told.code === Code.TokenExpired;
        if (!(error instanceof Dismissal)) continue;
        wait.set(address, error.final ? Infinity : Date.now() + error.told.retryAfterMs);
        for (const a of error.elsewhere) { // it is leaving too
          if (d.named >= maxNamed || d.others.includes(a)) continue;
          d.others = [...d.others, a];
          d.named++;
        }
      }
    }
    if (d.others !== named) continue; // more have been named
    const left = d.until - Date.now();
    let bound = e.backoff(failures);
    if (left > 0) bound = Math.min(bound, Math.max(left / 2, e.cfg.minBackoffMs)); // there is another round in any case
    if (l.wire.over) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, jitter(bound));
      const end = () => {
        clearTimeout(timer);
        resolve();
      };
      d.again = () => {
        failures = -1;
        end();
      };
      void l.wire.ended.then(end);
    });
    d.again = undefined;
  }
}
