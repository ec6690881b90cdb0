// The frames as binary messages of a WebSocket, one a message.

import { ConnectionError } from "../errors.js";
import type { Transport } from "./transport.js";

/** The subprotocol of binary frames. */
export const subprotocol = "gochat.v1";

/** What is used of a WebSocket: the browser's, Node's (22 and later), or that of the package `ws`. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  send(data: Uint8Array): void;
  close(code?: number, reason?: string): void;
  onopen: ((e: never) => void) | null;
  onmessage: ((e: never) => void) | null;
  onerror: ((e: never) => void) | null;
  onclose: ((e: never) => void) | null;
}

export type WebSocketConstructor = new (url: string, protocols: string | string[]) => WebSocketLike;

/**
 * A transport over WebSockets. Addresses are URLs (`wss://chat.example.com/ws`); one without a scheme, as a server names
 * others by, gets the scheme and path of `base`.
 */
export function webSocket(base: string, constructor?: WebSocketConstructor): Transport {
  const WS = constructor ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
  if (!WS) throw new Error("there is no WebSocket here: give Config.webSocket, or another Config.transport"); // no later attempt would find one
  return (address, handler, signal) =>
    new Promise((resolve, reject) => {
      let url = address;
      if (!/^wss?:/.test(address)) {
        const u = new URL(base);
        u.host = address;
        url = u.href;
      }
      const ws = new WS(url, [subprotocol]);
      ws.binaryType = "arraybuffer";
      let open = false;
      let over = false;
      const end = (why: Error, code?: number) => {
        if (over) return;
        over = true;
        signal.removeEventListener("abort", aborted);
        if (open) handler.closed(why, code);
        else reject(why);
      };
      const aborted = () => {
        ws.close();
        end(new ConnectionError("the attempt to connect was given up"));
      };
      if (signal.aborted) return aborted();
      signal.addEventListener("abort", aborted);
      ws.onopen = () => {
        if (over) return ws.close();
        open = true;
        resolve({
          send: (frame) => {
            if (!over) ws.send(frame);
          },
          get buffered() {
            return ws.bufferedAmount;
          },
          close: () => ws.close(1000),
        });
      };
      ws.onmessage = (e: { data: unknown }) => {
        if (over) return;
        if (e.data instanceof ArrayBuffer) handler.data(new Uint8Array(e.data));
        else {
          ws.close(1003);
          end(new ConnectionError("the server sent text where frames are binary"));
        }
      };
      ws.onerror = () => {
        if (!open) end(new ConnectionError(`can't connect to ${url}`));
      };
      ws.onclose = (e: { code?: number; reason?: string }) => {
        end(new ConnectionError(`the connection was closed${e.code ? ` (${e.code}${e.reason ? " " + e.reason : ""})` : ""}`), e.code);
      };
    });
}
