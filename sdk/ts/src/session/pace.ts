/** Milliseconds' worth that is sent at once: half of what servers allow, so that what a slow network holds back and then hands over in one piece is no breach. */
export const burstSends = 1000;
export const burstBytes = 2000;

/** Spaces what is sent so that it keeps to a rate that the server announced: some at once, the rest evenly. */
export class Pace {
  private readonly each: number;
  private spent = 0; // when all that was sent will have been earned

  /** @param perSecond 0: no limit */
  constructor(perSecond: number, private readonly burst: number) {
    this.each = perSecond > 0 ? 1000 / perSecond : 0;
  }

  /** When something may be sent again. */
  next(): number {
    return this.each === 0 && this.spent === 0 ? 0 : this.spent - this.burst;
  }

  spend(now: number, n: number): void {
    if (this.each > 0) this.spent = Math.max(this.spent, now) + n * this.each;
  }

  /** Lets nothing be sent until then, and no burst after. */
  hold(until: number): void {
    this.spent = Math.max(this.spent, until + this.burst);
  }
}

/** A random time from 0 to ms. */
export const jitter = (ms: number): number => (ms > 0 ? Math.random() * ms : 0);
