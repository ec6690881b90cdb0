// Writes what changed, several changes as one. What could not be written goes with what comes next: a session is never stored
// ahead of the cursors that it relies on.

import type { Message } from "../api.js";
import type { ListedState } from "../list.js";
import type { Change, Cursor, SessionState, Store } from "../store/store.js";
import type { Logger } from "../api.js";

/** How many messages that could not be stored are kept for another try. */
const mostKept = 1000;

export class Saver {
  private reset = false;
  private cursors = new Map<string, Cursor>();
  private listed = new Set<string>();
  private kept: Message[] = [];
  /** Being written. */
  private leaving: Message[] = [];
  private session: SessionState | undefined;
  private running: Promise<void> | undefined;
  private due = false; // something came
  private failed = false; // the last try

  constructor(
    private readonly store: Store,
    private readonly stateOf: (conversation: string) => ListedState | undefined,
    private readonly log: Logger,
  ) {}

  /** Forgets all cursors, conversations and messages. */
  forget(): void {
    this.reset = true;
    this.cursors.clear();
    this.listed.clear();
    this.kept = [];
    this.run();
  }

  cursor(conversation: string, c: Cursor): void {
    this.cursors.set(conversation, c);
    this.run();
  }

  list(conversation: string): void {
    this.listed.add(conversation);
    this.run();
  }

  /** A message that the application has had; stored with its cursor. */
  keep(m: Message): void {
    this.kept.push(m);
  }

  /** What of a conversation's messages isn't known to be in the store yet, ascending. */
  unsaved(conversation: string): Message[] {
    return [...this.leaving, ...this.kept].filter((m) => m.conversation === conversation);
  }

  setSession(s: SessionState): void {
    this.session = { ...s };
    this.run();
  }

  /** Resolves when all is written, or what could not be was tried once more. */
  async idle(): Promise<void> {
    while (this.running) await this.running;
    if (this.failed) this.run();
    while (this.running) await this.running;
  }

  private run(): void {
    this.due = true;
    this.running ??= this.loop();
  }

  private async loop(): Promise<void> {
    await Promise.resolve(); // gathers what the caller still has
    while (this.due) {
      const change: Change = {};
      if (this.reset) change.reset = true;
      if (this.cursors.size > 0) change.cursors = this.cursors;
      if (this.kept.length > 0) change.messages = this.kept;
      if (this.session) change.session = this.session;
      const ids = this.listed;
      const listed = [...ids].map((c) => this.stateOf(c)).filter((s): s is ListedState => s !== undefined);
      if (listed.length > 0) change.listed = listed;
      this.due = false;
      this.reset = false;
      this.cursors = new Map();
      this.listed = new Set();
      this.leaving = this.kept;
      this.kept = [];
      this.session = undefined;
      try {
        await this.store.save(change);
        this.failed = false;
      } catch (e) {
        this.log.error("storing the client's state", e);
        this.failed = true;
        this.takeBack(change, ids);
      }
      this.leaving = [];
    }
    this.running = undefined;
  }

  /** Has a change that failed stored with the next one; what came since is newer. */
  private takeBack(change: Change, listed: Set<string>): void {
    this.session ??= change.session;
    if (this.reset) return; // the rest was forgotten meanwhile
    this.reset = change.reset ?? false;
    this.cursors = new Map([...(change.cursors ?? []), ...this.cursors]);
    this.listed = new Set([...listed, ...this.listed]);
    this.kept = [...this.leaving, ...this.kept].slice(-mostKept);
  }
}
