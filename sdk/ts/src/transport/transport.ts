/** A way to the server: a stream of frames both ways. */
export interface Connection {
  /** Queues one frame. Never throws: a connection that is no more drops it. */
  send(frame: Uint8Array): void;
  /** Bytes that wait to be written. */
  readonly buffered: number;
  /** Closes after what was queued has been written. `closed` comes then, if it didn't yet. */
  close(): void;
}

/** What a connection tells; each only after the transport's promise has resolved, `closed` once and last. */
export interface ConnectionHandler {
  /** Bytes came: parts of frames, whole ones, or several. They are good until it returns. */
  data(bytes: Uint8Array): void;
  /** It ended. `code`: a WebSocket's close code, if there was one. */
  closed(why: Error, code?: number): void;
}

/** Opens a connection to an address, or rejects. Once `signal` is aborted it closes what it has begun. */
export type Transport = (address: string, handler: ConnectionHandler, signal: AbortSignal) => Promise<Connection>;
