// A store that ends with the page or the process.

import type { Message } from "../api.js";
import type { ListedState } from "../list.js";
import { defaultCache, noSession, type Change, type Cursor, type Outgoing, type State, type Store } from "./store.js";

export class MemoryStore implements Store {
  private session = noSession();
  private outbox: Outgoing[] = [];
  private cursors = new Map<string, Cursor>();
  private listed = new Map<string, ListedState>();
  private cache = new Map<string, Message[]>();

  /** @param perConversation how many messages of each conversation are cached, the newest; 0: none. */
  constructor(private readonly perConversation = defaultCache) {}

  async load(): Promise<State> {
    return { session: { ...this.session }, outbox: [...this.outbox], cursors: new Map(this.cursors), listed: [...this.listed.values()] };
  }

  async putOutgoing(o: Outgoing): Promise<void> {
    return this.replaceOutgoing(o.id, o);
  }

  async replaceOutgoing(old: string, o: Outgoing): Promise<void> {
    const i = this.outbox.findIndex((x) => x.id === old);
    if (i >= 0) this.outbox[i] = o;
    else this.outbox.push(o);
  }

  async dropOutgoing(id: string): Promise<void> {
    const i = this.outbox.findIndex((x) => x.id === id);
    if (i >= 0) this.outbox.splice(i, 1);
  }

  async save(change: Change): Promise<void> {
    if (change.reset) {
      this.cursors.clear();
      this.listed.clear();
      this.cache.clear();
    }
    change.cursors?.forEach((c, id) => this.cursors.set(id, c));
    change.listed?.forEach((l) => this.listed.set(l.conversation.id, l));
    if (change.session) this.session = { ...change.session };
    if (this.perConversation > 0) change.messages?.forEach((m) => this.keep(m));
  }

  private keep(m: Message): void {
    let all = this.cache.get(m.conversation);
    if (!all) this.cache.set(m.conversation, (all = []));
    let at = all.length;
    while (at > 0 && all[at - 1]!.seq > m.seq) at--;
    if (all[at - 1]?.seq === m.seq) all[at - 1] = m;
    else all.splice(at, 0, m);
    if (all.length > this.perConversation) all.shift();
  }

  async messages(conversation: string, before: bigint, limit: number): Promise<Message[]> {
    const all = (this.cache.get(conversation) ?? []).filter((m) => before === 0n || m.seq < before);
    return all.slice(Math.max(0, all.length - limit));
  }

  /** All cached messages, ascending within a conversation. */
  allMessages(): Message[] {
    return [...this.cache.values()].flat();
  }

  /** Does nothing: the store may be given to another client of the same user and device afterwards. */
  async close(): Promise<void> {}
}
