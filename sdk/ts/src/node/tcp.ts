// The frames over TCP, or TLS over TCP: Node alone.

import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions } from "node:tls";

import { ConnectionError } from "../errors.js";
import type { Transport } from "../transport/transport.js";

/** A transport over TCP. Addresses are `host:port`, IPv6 hosts in brackets. With `tls` it is TLS with these options. */
export function tcp(tls?: ConnectionOptions): Transport {
  return (address, handler, signal) =>
    new Promise((resolve, reject) => {
      const colon = address.lastIndexOf(":");
      const host = address.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
      const port = Number(address.slice(colon + 1));
      if (colon < 0 || !(port > 0 && port < 65536)) throw new ConnectionError(`${address} isn't host:port`);
      let open = false;
      let over = false;
      let why = new ConnectionError("the connection was closed");
      const socket: Socket = tls ? connectTls({ servername: host, ...tls, host, port }) : connectTcp({ host, port });
      const aborted = () => socket.destroy(new ConnectionError("the attempt to connect was given up"));
      if (signal.aborted) aborted();
      signal.addEventListener("abort", aborted);
      socket.setNoDelay(true);
      socket.on(tls ? "secureConnect" : "connect", () => {
        open = true;
        resolve({
          send: (frame) => {
            if (!over && !socket.writableEnded) socket.write(frame);
          },
          get buffered() {
            return socket.writableLength;
          },
          close: () => {
            socket.end();
            // Whoever doesn't take what is queued, nor ends its own side, is not waited for.
            setTimeout(() => socket.destroy(), 1000).unref();
          },
        });
      });
      socket.on("data", (bytes) => {
        if (!over) handler.data(bytes);
      });
      socket.on("error", (e) => (why = e instanceof ConnectionError ? e : new ConnectionError(`${address}: ${e.message}`, { cause: e })));
      socket.on("close", () => {
        if (over) return;
        over = true;
        signal.removeEventListener("abort", aborted);
        if (open) handler.closed(why);
        else reject(why);
      });
    });
}
