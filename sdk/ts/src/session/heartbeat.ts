import type { Link } from "./link.js";

/** How many PINGs a connection has had answered when its network is taken for one that keeps silent connections alive for longer. */
const steadyBeats = 8;

/**
 * What the client asks the server to be allowed, unless its Config says. A network that forgets silent connections shows by
 * connections that turn out to be dead: the wish is halved. One that doesn't shows by PINGs that are answered: the next connection
 * tries half as much again, but never again as much as failed.
 */
export class Heartbeat {
  /** Milliseconds; 0: the server's choice. */
  wish = 0;
  private failed = 0;

  /** Draws the conclusion from how a connection ended. */
  learn(l: Pick<Link, "silent" | "heartbeat" | "beatMin" | "beatMax" | "beats">): void {
    if (l.silent) {
      this.wish = Math.max(l.heartbeat / 2, l.beatMin, 1000);
      this.failed = l.heartbeat;
    } else if (l.beats >= steadyBeats) {
      const longer = Math.min(l.heartbeat * 1.5, l.beatMax);
      if (this.failed === 0 || longer < this.failed) this.wish = Math.max(longer, this.wish);
    }
  }
}
