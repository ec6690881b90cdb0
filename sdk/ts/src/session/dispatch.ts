// Hands events to the application, one after the other, and moves cursors behind what it has had.

import type { AnyEvent, EventName, Events } from "../api.js";
import type { Engine } from "./engine.js";
import type { Timeline } from "./timelines.js";

interface Item {
  event: AnyEvent | undefined;
  /** Moves this timeline's `done` to seq when the application has had the event. */
  timeline: Timeline | undefined;
  seq: bigint;
  /** Counts among those that wait. */
  message: boolean;
}

export class Dispatch {
  private items: Item[] = [];
  private running: Promise<void> | undefined;
  /** Messages among the items, the one being handled included. */
  waiting = 0;

  constructor(
    private readonly engine: Engine,
    private readonly hear: (e: AnyEvent) => void | Promise<void>,
  ) {}

  get length(): number {
    return this.items.length;
  }

  /** Messages must wait at the server. */
  get full(): boolean {
    return this.waiting >= this.engine.cfg.queue;
  }

  push<K extends EventName>(type: K, data: Events[K]): void {
    this.put({ event: { type, data } as AnyEvent, timeline: undefined, seq: 0n, message: false });
  }

  /** Queues what a message of a timeline is told as. */
  message(timeline: Timeline, seq: bigint, event: AnyEvent): void {
    this.waiting++;
    this.put({ event, timeline, seq, message: true });
  }

  /** Queues a message of a room, of which nothing is kept. */
  live(event: AnyEvent): void {
    this.waiting++;
    this.put({ event, timeline: undefined, seq: 0n, message: true });
  }

  /** Queues that nothing of a timeline will come up to seq. */
  skip(timeline: Timeline, seq: bigint): void {
    this.put({ event: undefined, timeline, seq, message: false });
  }

  /** Resolves when the application has had all. */
  async idle(): Promise<void> {
    while (this.running) await this.running;
  }

  private put(i: Item): void {
    this.items.push(i);
    this.running ??= this.run();
  }

  private async run(): Promise<void> {
    await Promise.resolve();
    try {
      while (this.items.length > 0) await this.batch();
    } finally {
      this.running = undefined; // at once: what is put in the next moment must not wait for somebody who has gone
    }
  }

  private async batch(): Promise<void> {
    const batch = this.items;
    this.items = [];
    const done = new Map<Timeline, bigint>();
    for (const [n, it] of batch.entries()) {
      if (it.event) {
        const p = this.hear(it.event);
        if (p) {
          if (done.size > 0) this.handled(done);
          await p;
        }
      }
      if (it.message) this.waiting--;
      if (it.timeline) {
        done.set(it.timeline, it.seq);
        if (it.event?.type === "message") this.engine.saver.keep(it.event.data);
      }
      if (n % 64 === 63) this.handled(done);
    }
    this.handled(done);
  }

  private handled(done: Map<Timeline, bigint>): void {
    for (const [t, seq] of done) this.engine.timelines.handled(t, seq);
    done.clear();
    this.engine.wake(); // there is room for more
  }
}
