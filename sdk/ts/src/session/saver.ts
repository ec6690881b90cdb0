// Writes what changed, several changes as one.

import type { Message } from "../api.js";
import type { ListedState } from "../list.js";
import type { Change, Cursor, SessionState, Store } from "../store/store.js";
import type { Logger } from "../api.js";

export class Saver {
  private reset = false;
  private cursors = new Map<string, Cursor>();
  private listed = new Set<string>();
  private kept: Message[] = [];
  /** Being written. */
  private leaving: Message[] = [];
  private session: SessionState | undefined;
  private running: Promise<void> | undefined;

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

  /** Resolves when all is written. */
  async idle(): Promise<void> {
    while (this.running) await this.running;
  }

  private run(): void {
    this.running ??= this.loop().finally(() => (this.running = undefined));
  }

  private async loop(): Promise<void> {
    await Promise.resolve(); // gathers what the caller still has
    while (this.reset || this.cursors.size > 0 || this.listed.size > 0 || this.session) {
      const change: Change = {};
      if (this.reset) change.reset = true;
      if (this.cursors.size > 0) change.cursors = this.cursors;
      if (this.kept.length > 0) change.messages = this.kept;
      if (this.session) change.session = this.session;
      const listed = [...this.listed].map((c) => this.stateOf(c)).filter((s): s is ListedState => s !== undefined);
      if (listed.length > 0) change.listed = listed;
      this.reset = false;
      this.cursors = new Map();
      this.listed = new Set();
      this.leaving = this.kept;
      this.kept = [];
      this.session = undefined;
      try {
        await this.store.save(change);
      } catch (e) {
        this.log.error("storing the client's state", e);
      }
      this.leaving = [];
    }
  }
}
