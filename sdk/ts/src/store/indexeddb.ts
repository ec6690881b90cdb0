// A store in the browser's database: it survives reloads, and the browser's end.

import type { Message } from "../api.js";
import { asError } from "../errors.js";
import type { ListedState } from "../list.js";
import { defaultCache, noSession, type Change, type Cursor, type Outgoing, type SessionState, type State, type Store } from "./store.js";

export interface IndexedDBOptions {
  /** How many messages of each conversation are cached, the newest; default 500; 0: none. */
  perConversation?: number;
  /** How many messages are cached at all; conversations that are silent for the longest lose theirs first. Default 20,000. */
  total?: number;
  /** Default: the browser's. */
  factory?: IDBFactory;
}

/** Seqs as keys that sort: IndexedDB has none for bigints. */
const key = (seq: bigint) => seq.toString(16).padStart(16, "0");

const request = <T>(r: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(asError(r.error));
  });

const finished = (t: IDBTransaction): Promise<void> =>
  new Promise((resolve, reject) => {
    t.oncomplete = () => resolve();
    t.onabort = () => reject(asError(t.error ?? new Error("the transaction was aborted")));
  });

type Row<T> = T & { id: string };

export class IndexedDBStore implements Store {
  private count = 0;
  private lowest = new Map<string, number>(); // messages cached, by conversation

  private constructor(
    private readonly db: IDBDatabase,
    private readonly perConversation: number,
    private readonly total: number,
  ) {}

  /** Opens the database of this name, which belongs to one user and device: put both into the name. */
  static async open(name: string, options: IndexedDBOptions = {}): Promise<IndexedDBStore> {
    const r = (options.factory ?? indexedDB).open(name, 1);
    r.onupgradeneeded = () => {
      const db = r.result;
      db.createObjectStore("session");
      db.createObjectStore("outbox", { autoIncrement: true }).createIndex("id", "id", { unique: true });
      db.createObjectStore("cursors", { keyPath: "id" });
      db.createObjectStore("listed", { keyPath: "id" });
      db.createObjectStore("messages");
    };
    const db = await request(r);
    db.onversionchange = () => db.close(); // a later version of the app, or one that deletes it
    const store = new IndexedDBStore(db, options.perConversation ?? defaultCache, options.total ?? 20_000);
    await store.countCache();
    return store;
  }

  /** Deletes the database of this name, after signing out. */
  static async delete(name: string, factory: IDBFactory = indexedDB): Promise<void> {
    await request(factory.deleteDatabase(name));
  }

  private async countCache(): Promise<void> {
    const keys = (await request(this.db.transaction("messages").objectStore("messages").getAllKeys())) as [string, string][];
    this.count = keys.length;
    for (const [conversation] of keys) this.lowest.set(conversation, (this.lowest.get(conversation) ?? 0) + 1);
  }

  async load(): Promise<State> {
    const t = this.db.transaction(["session", "outbox", "cursors", "listed"]);
    const [session, outbox, cursors, listed] = await Promise.all([
      request(t.objectStore("session").get("session") as IDBRequest<SessionState | undefined>),
      request(t.objectStore("outbox").getAll() as IDBRequest<Outgoing[]>),
      request(t.objectStore("cursors").getAll() as IDBRequest<Row<Cursor>[]>),
      request(t.objectStore("listed").getAll() as IDBRequest<Row<ListedState>[]>),
    ]);
    return { session: session ?? noSession(), outbox, cursors: new Map(cursors.map(({ id, applied, head }) => [id, { applied, head }])), listed };
  }

  private write(stores: string[]): IDBTransaction {
    return this.db.transaction(stores, "readwrite", { durability: "strict" });
  }

  async putOutgoing(o: Outgoing): Promise<void> {
    return this.replaceOutgoing(o.id, o);
  }

  async replaceOutgoing(old: string, o: Outgoing): Promise<void> {
    const t = this.write(["outbox"]);
    const done = finished(t);
    const outbox = t.objectStore("outbox");
    const at = outbox.index("id").getKey(old);
    at.onsuccess = () => void (at.result === undefined ? outbox.add({ ...o }) : outbox.put({ ...o }, at.result));
    return done;
  }

  async dropOutgoing(id: string): Promise<void> {
    const t = this.db.transaction(["outbox"], "readwrite");
    const done = finished(t);
    const outbox = t.objectStore("outbox");
    const at = outbox.index("id").getKey(id);
    at.onsuccess = () => void (at.result !== undefined && outbox.delete(at.result));
    return done;
  }

  async save(change: Change): Promise<void> {
    const t = this.db.transaction(["session", "cursors", "listed", "messages"], "readwrite");
    const done = finished(t);
    const [cursors, listed, messages] = [t.objectStore("cursors"), t.objectStore("listed"), t.objectStore("messages")];
    if (change.reset) {
      for (const s of [cursors, listed, messages]) s.clear();
      this.count = 0;
      this.lowest.clear();
    }
    change.cursors?.forEach((c, id) => cursors.put({ id, ...c }));
    for (const l of change.listed ?? []) listed.put({ id: l.conversation.id, ...l });
    if (change.session) t.objectStore("session").put({ ...change.session }, "session");
    if (this.perConversation > 0) for (const m of change.messages ?? []) this.keep(messages, m);
    return done;
  }

  private keep(messages: IDBObjectStore, m: Message): void {
    messages.put(m, [m.conversation, key(m.seq)]);
    const n = (this.lowest.get(m.conversation) ?? 0) + 1;
    this.count++;
    this.lowest.delete(m.conversation); // the conversation that got one last stands last
    this.lowest.set(m.conversation, n);
    if (n > this.perConversation * 1.1 + 10) this.drop(messages, m.conversation, n - this.perConversation);
    if (this.count > this.total) {
      const [oldest, all] = this.lowest.entries().next().value!;
      if (oldest !== m.conversation) this.drop(messages, oldest, all);
      else this.drop(messages, oldest, Math.ceil(all / 2));
    }
  }

  /** Removes the oldest n messages of a conversation. */
  private drop(messages: IDBObjectStore, conversation: string, n: number): void {
    const left = this.lowest.get(conversation)! - n;
    if (left > 0) this.lowest.set(conversation, left);
    else this.lowest.delete(conversation);
    this.count -= n;
    const keys = messages.getAllKeys(range(conversation), n);
    keys.onsuccess = () => {
      const last = keys.result[keys.result.length - 1];
      if (last !== undefined) messages.delete(IDBKeyRange.bound([conversation, ""], last));
    };
  }

  async messages(conversation: string, before: bigint, limit: number): Promise<Message[]> {
    const found: Message[] = [];
    if (limit <= 0) return found;
    const at = this.db.transaction("messages").objectStore("messages").openCursor(range(conversation, before), "prev");
    return new Promise((resolve, reject) => {
      at.onerror = () => reject(asError(at.error));
      at.onsuccess = () => {
        const c = at.result;
        if (!c || found.push(c.value as Message) === limit) return resolve(found.reverse());
        c.continue();
      };
    });
  }

  async close(): Promise<void> {
    this.db.close(); // once what is under way is done
  }
}

/** The keys of a conversation's messages below a seq (0: all). */
function range(conversation: string, before = 0n): IDBKeyRange {
  return before > 0n ? IDBKeyRange.bound([conversation, ""], [conversation, key(before)], false, true) : IDBKeyRange.bound([conversation, ""], [conversation, "g"]);
}
