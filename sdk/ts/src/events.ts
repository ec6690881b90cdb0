// Typed events, heard by listeners and by async iterators.

import type { AnyEvent, EventName, Listener, Logger } from "./api.js";

type AnyListener = (data: never) => void | Promise<void>;

/** Hands events to whoever listens. */
export class Emitter {
  private readonly listeners = new Map<EventName, Set<AnyListener>>();
  private readonly streams = new Set<Stream>();
  constructor(private readonly log: Logger) {}

  on<K extends EventName>(name: K, fn: Listener<K>): () => void {
    let all = this.listeners.get(name);
    if (!all) this.listeners.set(name, (all = new Set()));
    all.add(fn as AnyListener);
    return () => void all.delete(fn as AnyListener);
  }

  /**
   * Calls the listeners one after the other. Returns a promise if there is something to wait for. What a listener throws is
   * logged: the event counts as heard.
   */
  emit(e: AnyEvent): void | Promise<void> {
    const waits: Promise<void>[] = [];
    for (const fn of [...(this.listeners.get(e.type) ?? [])]) {
      try {
        const p = fn(e.data as never);
        if (p && typeof p.then === "function") waits.push(p);
      } catch (error) {
        this.log.error(`a listener of ${e.type} failed`, error);
      }
    }
    for (const s of this.streams) waits.push(s.push(e));
    if (waits.length === 0) return;
    return Promise.allSettled(waits).then((all) => {
      for (const r of all) if (r.status === "rejected") this.log.error(`a listener of ${e.type} failed`, r.reason);
    });
  }

  /** All events of these names (all, if none is named), until the loop is left or the client ends. */
  stream(names: EventName[]): AsyncIterableIterator<AnyEvent> {
    const s = new Stream(names, () => this.streams.delete(s));
    this.streams.add(s);
    return s;
  }

  /** Ends all streams. */
  end(): void {
    for (const s of [...this.streams]) void s.return();
  }
}

/** One async iteration. An event counts as heard when the loop asks for the next one. */
class Stream implements AsyncIterableIterator<AnyEvent> {
  private readonly queue: { e: AnyEvent; heard: () => void }[] = [];
  private current: (() => void) | undefined;
  private waiting: ((r: IteratorResult<AnyEvent>) => void) | undefined;
  private over = false;

  constructor(
    private readonly names: EventName[],
    private readonly left: () => void,
  ) {}

  push(e: AnyEvent): Promise<void> {
    if (this.over || (this.names.length > 0 && !this.names.includes(e.type))) return Promise.resolve();
    return new Promise((heard) => {
      if (this.waiting) {
        this.current = heard;
        this.waiting({ value: e, done: false });
        this.waiting = undefined;
      } else this.queue.push({ e, heard });
    });
  }

  next(): Promise<IteratorResult<AnyEvent>> {
    this.current?.();
    this.current = undefined;
    const item = this.queue.shift();
    if (item) {
      this.current = item.heard;
      return Promise.resolve({ value: item.e, done: false });
    }
    if (this.over) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve) => (this.waiting = resolve));
  }

  return(): Promise<IteratorResult<AnyEvent>> {
    this.over = true;
    this.left();
    this.current?.();
    for (const { heard } of this.queue.splice(0)) heard();
    this.waiting?.({ value: undefined, done: true });
    this.waiting = undefined;
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<AnyEvent> {
    return this;
  }
}

/** A logger that says nothing. */
export const silent: Logger = { info() {}, warn() {}, error() {} };
