// Who connects where.

import type { Logger } from "./api.js";
import { silent } from "./events.js";
import { validId } from "./ids.js";
import { MemoryStore } from "./store/memory.js";
import type { Store } from "./store/store.js";
import { orElse, serverSentEvents } from "./transport/events.js";
import type { Transport } from "./transport/transport.js";
import { webSocket, type WebSocketConstructor } from "./transport/websocket.js";
import { DeviceKind } from "./wire/wire.gen.js";

export interface Config {
  /** The server: a WebSocket's URL, or what the transport takes (host:port of tcp). In a browser "/ws" is enough. */
  url: string;
  /**
   * The access token to connect with. A function is called before every CONNECT; `expired` tells that the server found the last one expired. If it
   * fails the client connects with its resume token, if it has one.
   */
  token: string | ((hint: { expired: boolean }) => string | Promise<string>);
  /** This installation's id: chosen once (see newDeviceId), then kept. No other installation of the user may have it. */
  device: string;
  /** One of DeviceKind; default Web. */
  kind?: number;
  /** Name and version of the app, for the server's logs; default "gochat-ts". */
  client?: string;
  /** Keeps what must outlive the page or process. The client closes it. Default: a memory store, which forgets. */
  store?: Store;
  /** Default: WebSocket, and where none can be opened, server-sent events with POSTs. For TCP see `@gochat/client/node`. */
  transport?: Transport;
  /** A WebSocket's constructor where there is none globally (Node before 22): that of the package `ws` will do. */
  webSocket?: WebSocketConstructor;
  /**
   * How many messages of a conversation that it meets for the first time the client gets; what is older comes by history.
   * Default 50; Infinity: all; 0: none.
   */
  backlog?: number;
  /** Takes the page's visibility for whether somebody is looking, and its online and offline events for hints. Default: true where there is a document. */
  followPage?: boolean;
  logger?: Logger;

  /** Milliseconds of silence that the client would like to be allowed; default: the server's choice, adapted to what the network bears. */
  heartbeatMs?: number;
  /** For getting a token and a connection and the answer to CONNECT; default 10 s. */
  dialTimeoutMs?: number;
  /** Before connecting again; default 0.5 s, doubling with each failure up to maxBackoffMs, 30 s. */
  minBackoffMs?: number;
  maxBackoffMs?: number;
  /** How often RECVACKs are sent at most; default 1 s. */
  ackIntervalMs?: number;
  /** How long a missing message may be under way before it is pulled; default 200 ms. */
  gapWaitMs?: number;
  /** Silence of the server after a PING is due before the connection is given up; default 10 s. */
  deadAfterMs?: number;
  /** Messages that wait for the listeners at most; default 1024. */
  queue?: number;
}

/** A Config with its defaults. */
export type Filled = Required<Omit<Config, "heartbeatMs" | "webSocket">> & { heartbeatMs: number };

/** Fills the defaults in; throws a TypeError that says what is missing or out of range. */
export function fill(c: Config): Filled {
  if (!c.url) throw new TypeError("Config.url is empty");
  if (!c.token) throw new TypeError("Config.token is missing");
  if (!validId(c.device)) throw new TypeError(`Config.device ${JSON.stringify(c.device)}: want 1 to 64 bytes of UTF-8 without control characters`);
  const hasDocument = typeof document !== "undefined";
  let url = c.url;
  if (!c.transport && !/^wss?:/.test(url)) {
    if (typeof location === "undefined") throw new TypeError(`Config.url ${url}: want ws:// or wss://`);
    url = new URL(url, location.href).href.replace(/^http/, "ws");
  }
  const filled: Filled = {
    url, token: c.token, device: c.device, kind: c.kind ?? DeviceKind.Web, client: c.client ?? "gochat-ts", store: c.store ?? new MemoryStore(),
    transport: c.transport ?? orElse(webSocket(url, c.webSocket), serverSentEvents(url)), backlog: c.backlog ?? 50, followPage: c.followPage ?? hasDocument, logger: c.logger ?? silent,
    heartbeatMs: c.heartbeatMs ?? 0, dialTimeoutMs: c.dialTimeoutMs ?? 10_000, minBackoffMs: c.minBackoffMs ?? 500, maxBackoffMs: c.maxBackoffMs ?? 30_000,
    ackIntervalMs: c.ackIntervalMs ?? 1000, gapWaitMs: c.gapWaitMs ?? 200, deadAfterMs: c.deadAfterMs ?? 10_000, queue: c.queue ?? 1024,
  };
  for (const [name, value] of Object.entries(filled)) if (typeof value === "number" && !(value >= 0)) throw new TypeError(`Config.${name}: ${value} is out of range`);
  return filled;
}
