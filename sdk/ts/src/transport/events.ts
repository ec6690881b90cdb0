// The frames over plain requests, for networks that let no WebSocket through: server-sent events down, POSTs up.

import { asError, ConnectionError } from "../errors.js";
import { subprotocol } from "./websocket.js";
import type { Connection, ConnectionHandler, Transport } from "./transport.js";

/** What a body holds, in bytes, unless its first frame alone is larger. */
const maxBody = 64 << 10;

/** Waits between attempts at one body, in milliseconds: the first, and the longest. */
const minRetry = 250;
const maxRetry = 4000;

/** How long a body may be under way, and what was queued after `close`, in milliseconds. */
const postTimeout = 15_000;
const closeTimeout = 5000;

/** The URL of the stream, for the address of a WebSocket on the same server. */
function streamOf(address: string, base: string): string {
  const whole = /^(wss?|https?):\/\//.test(address);
  const u = new URL(whole ? address : base);
  if (!whole) u.host = address;
  u.protocol = u.protocol.replace(/^ws/, "http");
  u.pathname = u.pathname.replace(/\/ws$/, "/events");
  u.search = `?protocol=${subprotocol}`;
  return u.href;
}

/**
 * A transport over server-sent events and POSTs, by `fetch`. Addresses are those of WebSockets, of which the last part of the path, `/ws`, becomes
 * `/events`; one without a scheme gets the rest from `base`.
 */
export function serverSentEvents(base: string): Transport {
  return (address, handler, signal) =>
    new Promise((resolve, reject) => {
      const stream = new Stream(streamOf(address, base), handler, signal);
      stream.run(resolve, reject);
    });
}

/** One line that says why a request failed. */
const refusal = async (r: Response): Promise<ConnectionError> => {
  const text = await r.text().catch(() => "");
  let said = "";
  try {
    said = `: ${(JSON.parse(text) as { error: { name: string } }).error.name}`;
  } catch {
    // a proxy's page
  }
  return new ConnectionError(`${new URL(r.url).pathname.replace(/(\/events)\/.*/, "$1")} answered ${r.status}${said}`);
};

class Stream implements Connection {
  private readonly abort = new AbortController();
  private readonly queue: Uint8Array[] = [];
  private waiting = 0;
  private posting = false;
  private seq = 0;
  private key = "";
  private over = false;
  private closing = false;
  private farewell: { why: Error; code?: number } | undefined;
  private opened: ((c: Connection) => void) | undefined;
  private failed: ((why: Error) => void) | undefined;
  private readonly aborted = () => this.end(new ConnectionError("the attempt to connect was given up"));

  constructor(
    private readonly url: string,
    private readonly handler: ConnectionHandler,
    private readonly signal: AbortSignal,
  ) {}

  get buffered(): number {
    return this.waiting;
  }

  send(frame: Uint8Array): void {
    if (this.over || this.closing) return;
    this.queue.push(frame.slice()); // the caller's memory may change before its turn
    this.waiting += frame.length;
    if (!this.posting) void this.post();
  }

  close(): void {
    if (this.over || this.closing) return;
    this.closing = true;
    const end = () => this.end(new ConnectionError("the connection was closed"));
    if (!this.posting) return end();
    const timer = setTimeout(end, closeTimeout);
    this.abort.signal.addEventListener("abort", () => clearTimeout(timer));
  }

  /** Asks for the stream, and reads it to its end. */
  run(resolve: (c: Connection) => void, reject: (why: Error) => void): void {
    this.opened = resolve;
    this.failed = reject;
    if (this.signal.aborted) return this.aborted();
    this.signal.addEventListener("abort", this.aborted);
    this.read().then(
      () => this.end(this.farewell?.why ?? new ConnectionError("the connection was cut"), this.farewell?.code),
      (error: unknown) => this.end(error instanceof ConnectionError ? error : new ConnectionError(`can't connect to ${this.url}`, { cause: asError(error) })),
    );
  }

  private end(why: Error, code?: number): void {
    if (this.over) return;
    this.over = true;
    this.queue.length = this.waiting = 0;
    this.signal.removeEventListener("abort", this.aborted);
    this.abort.abort();
    if (this.opened) this.failed?.(why);
    else this.handler.closed(why, code);
  }

  private async read(): Promise<void> {
    const r = await fetch(this.url, { headers: { Accept: "text/event-stream" }, cache: "no-store", credentials: "omit", signal: this.abort.signal });
    if (!r.ok) throw await refusal(r);
    if (!r.body || !r.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new ConnectionError("the server answered with something else than events");
    const reader = r.body.getReader();
    const decoder = new TextDecoder();
    let begun: string[] = []; // of a line
    let event = "";
    let data = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.over) return;
      let rest = decoder.decode(value, { stream: true });
      for (let at; (at = rest.indexOf("\n")) >= 0; rest = rest.slice(at + 1)) {
        begun.push(rest.slice(0, at));
        const line = begun.join("");
        begun = [];
        if (line.startsWith("event: ")) event = line.slice(7);
        else if (line.startsWith("data: ")) data = line.slice(6);
        else if (line === "" && data !== "") {
          await this.take(event, data);
          if (this.over) return;
          event = data = "";
        }
      }
      if (rest !== "") begun.push(rest);
    }
  }

  private async take(event: string, data: string): Promise<void> {
    if (event === "open") {
      this.key = (JSON.parse(data) as { key: string }).key;
      const opened = this.opened;
      this.opened = undefined;
      opened?.(this);
      await Promise.resolve(); // who waits for it hears of it before anything else
    } else if (event === "close") {
      const { code, reason } = JSON.parse(data) as { code: number; reason: string };
      this.farewell = { why: new ConnectionError(`the connection was closed (${code} ${reason})`), code };
    } else if (event === "" && !this.opened) {
      this.handler.data(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)));
    }
  }

  /** Sends what is queued, one body after the other. One whose answer doesn't come goes again under its number. */
  private async post(): Promise<void> {
    this.posting = true;
    while (this.queue.length > 0 && !this.over) {
      let size = 0;
      let n = 0;
      while (n < this.queue.length && (n === 0 || size + this.queue[n]!.length <= maxBody)) size += this.queue[n++]!.length;
      const body = new Uint8Array(size);
      let at = 0;
      for (const frame of this.queue.splice(0, n)) {
        body.set(frame, at);
        at += frame.length;
      }
      this.seq++;
      for (let wait = minRetry; !this.over; wait = Math.min(2 * wait, maxRetry)) {
        const again = await this.attempt(body);
        if (again === undefined) break;
        await this.sleep(Math.max(again, wait * (0.5 + Math.random() / 2)));
      }
      if (!this.over) this.waiting -= size;
    }
    this.posting = false;
    if (this.closing) this.end(new ConnectionError("the connection was closed"));
  }

  /** Sends a body once. Milliseconds to wait before it is sent again; undefined: it was taken, or never will be. */
  private async attempt(body: Uint8Array): Promise<number | undefined> {
    const late = new AbortController();
    const stop = () => late.abort();
    const timer = setTimeout(stop, postTimeout);
    this.abort.signal.addEventListener("abort", stop);
    try {
      const url = new URL(this.url);
      url.pathname += `/${this.key}`;
      url.search = `?seq=${this.seq}`;
      const r = await fetch(url, {
        method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: body as Uint8Array<ArrayBuffer>, cache: "no-store", credentials: "omit", signal: late.signal,
      });
      if (r.status === 204) return undefined;
      if (r.status === 429 || r.status >= 500 || r.status === 408) {
        await r.body?.cancel();
        return 1000 * (Number(r.headers.get("Retry-After")) || 0);
      }
      const why = await refusal(r);
      // The stream may be about to say more of it.
      if (r.status === 410) await this.sleep(1000);
      this.end(why);
      return undefined;
    } catch {
      return 0; // the network's errors come and go; the heartbeat knows when it is enough
    } finally {
      clearTimeout(timer);
      this.abort.signal.removeEventListener("abort", stop);
    }
  }

  private sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.abort.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      if (this.over) done();
      else this.abort.signal.addEventListener("abort", done);
    });
  }
}

/** How long a WebSocket may take to open where none ever has, in milliseconds: some proxies never answer. */
const patience = 4000;

/**
 * `first`, and where that can't be opened, `second`. What was needed is remembered as long as the transport is used, unless `first` has worked before: then
 * it may have been the server.
 */
export function orElse(first: Transport, second: Transport): Transport {
  let known: "first" | "second" | undefined;
  return async (address, handler, signal) => {
    if (known === "second") return second(address, handler, signal);
    let failure: unknown;
    const attempt = new AbortController();
    const abort = () => attempt.abort(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    const timer = known === "first" ? undefined : setTimeout(() => attempt.abort(), patience);
    // It hears of the end of the connection, not that of a failed attempt.
    const unhooked: ConnectionHandler = {
      data: (bytes) => handler.data(bytes),
      closed: (why, code) => {
        signal.removeEventListener("abort", abort);
        handler.closed(why, code);
      },
    };
    try {
      const c = await first(address, unhooked, attempt.signal);
      known = "first";
      return c;
    } catch (error) {
      signal.removeEventListener("abort", abort);
      if (signal.aborted) throw error;
      failure = error;
    } finally {
      clearTimeout(timer);
    }
    try {
      const c = await second(address, handler, signal);
      known ??= "second";
      return c;
    } catch (error) {
      throw signal.aborted ? error : failure;
    }
  };
}
