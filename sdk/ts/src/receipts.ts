import type { Ack, Receipt } from "./api.js";

interface Open {
  stored: Promise<Ack>;
  resolve: (a: Ack) => void;
  reject: (e: Error) => void;
}

/** Who waits for the outcome of messages. */
export class Receipts {
  private readonly waiting = new Map<string, Open>();

  open(id: string): Receipt {
    let o = this.waiting.get(id);
    if (!o) {
      let resolve!: Open["resolve"], reject!: Open["reject"];
      const stored = new Promise<Ack>((a, b) => ([resolve, reject] = [a, b]));
      stored.catch(() => {}); // not everybody waits for it
      this.waiting.set(id, (o = { stored, resolve, reject }));
    }
    return { id, stored: o.stored };
  }

  find(id: string): Promise<Ack> | undefined {
    return this.waiting.get(id)?.stored;
  }

  settle(id: string, ack: Ack | undefined, error: Error | undefined): void {
    const o = this.waiting.get(id);
    this.waiting.delete(id);
    if (ack) o?.resolve(ack);
    else if (error) o?.reject(error);
  }

  /** Everybody who still waits gets error. */
  fail(error: Error): void {
    for (const id of [...this.waiting.keys()]) this.settle(id, undefined, error);
  }
}
