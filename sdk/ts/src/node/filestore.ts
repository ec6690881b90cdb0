// A store in one file: changes are appended a line each, and the file is written anew when most of it is past.

import { constants } from "node:fs";
import { open, readFile, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";

import type { Message } from "../api.js";
import { MemoryStore } from "../store/memory.js";
import { defaultCache, type Change, type Outgoing, type State, type Store } from "../store/store.js";

// Appended to, also behind what was cut off.
const anew = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_APPEND;

type Line = { put: Outgoing } | { replace: string; by: Outgoing } | { drop: string } | { save: Change };

// Bigints, bytes and maps as JSON. A string that begins with "~" gets another one.
function pack(v: unknown): unknown {
  if (typeof v === "bigint") return `~n${v}`;
  if (typeof v === "string") return v.startsWith("~") ? `~s${v}` : v;
  if (v instanceof Uint8Array) return `~b${Buffer.from(v).toString("base64")}`;
  if (v instanceof Map) return { "~m": [...v].map(([k, x]) => [k, pack(x)]) };
  if (Array.isArray(v)) return v.map(pack);
  if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, pack(x)]));
  return v;
}

function unpack(v: unknown): unknown {
  if (typeof v === "string" && v.startsWith("~")) {
    const rest = v.slice(2);
    return v[1] === "n" ? BigInt(rest) : v[1] === "b" ? new Uint8Array(Buffer.from(rest, "base64")) : rest;
  }
  if (Array.isArray(v)) return v.map(unpack);
  if (v && typeof v === "object") {
    const m = (v as { "~m"?: [string, unknown][] })["~m"];
    if (m) return new Map(m.map(([k, x]) => [k, unpack(x)]));
    return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, unpack(x)]));
  }
  return v;
}

/** A store for Node in a file. One process may have it open: two would write over each other. */
export class FileStore implements Store {
  private last: Promise<unknown> = Promise.resolve();
  private lines = 0;
  private size = 0; // of the file's whole lines
  private broken: Error | undefined; // the file could not be brought back to whole lines: nothing is written any more

  private constructor(
    private readonly path: string,
    private readonly memory: MemoryStore,
    private file: FileHandle,
  ) {}

  /**
   * Opens the file of a user and device, or makes it. A line that a crash cut off is left out.
   * @param perConversation how many messages of each conversation are kept for `cached`
   */
  static async open(path: string, perConversation = defaultCache): Promise<FileStore> {
    const memory = new MemoryStore(perConversation);
    let text = "";
    try {
      text = await readFile(path, "utf8");
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== "ENOENT") throw e;
    }
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    for (const line of whole.split("\n")) if (line) await apply(memory, unpack(JSON.parse(line)) as Line);
    const s = new FileStore(path, memory, await open(path, "a", 0o600));
    try {
      await s.rewrite();
    } catch (e) {
      await s.file.close();
      throw e;
    }
    return s;
  }

  load(): Promise<State> {
    return this.memory.load();
  }

  putOutgoing(o: Outgoing): Promise<void> {
    return this.append({ put: o }, true);
  }

  replaceOutgoing(old: string, o: Outgoing): Promise<void> {
    return this.append({ replace: old, by: o }, true);
  }

  dropOutgoing(id: string): Promise<void> {
    return this.append({ drop: id }, false);
  }

  save(change: Change): Promise<void> {
    return this.append({ save: change }, false);
  }

  messages(conversation: string, before: bigint, limit: number): Promise<Message[]> {
    return this.memory.messages(conversation, before, limit);
  }

  async close(): Promise<void> {
    await this.last;
    await this.file.datasync();
    await this.file.close();
  }

  /** Appends a line, behind those before it. `durable`: it survives a crash of the machine, and what stands before it does. */
  private append(line: Line, durable: boolean): Promise<void> {
    const text = Buffer.from(JSON.stringify(pack(line)) + "\n");
    const mine = this.last.then(async () => {
      if (this.broken) throw this.broken;
      try {
        await this.file.appendFile(text);
        if (durable) await this.file.datasync();
      } catch (e) {
        await this.undo();
        throw e;
      }
      this.size += text.length;
      await apply(this.memory, line);
      if (++this.lines > 20_000) await this.rewrite().catch(() => (this.lines = 0)); // the line is stored: tried again after as many
    });
    this.last = mine.catch(() => {});
    return mine;
  }

  /** Cuts off what was written of a line: the next one would be glued to it. */
  private async undo(): Promise<void> {
    try {
      await this.file.truncate(this.size);
    } catch (e) {
      this.broken = new Error("the client's store can't be written to any more", { cause: e });
    }
  }

  /** Writes what holds now into a file of its own and puts that in the place of the old one. */
  private async rewrite(): Promise<void> {
    const st = await this.memory.load();
    const lines: Line[] = [{ save: { session: st.session, cursors: st.cursors, listed: st.listed, messages: this.memory.allMessages() } }, ...st.outbox.map((o) => ({ put: o }))];
    const text = Buffer.from(lines.map((l) => JSON.stringify(pack(l)) + "\n").join(""));
    const next = await open(`${this.path}.new`, anew, 0o600);
    try {
      await next.writeFile(text);
      await next.sync();
      await rename(`${this.path}.new`, this.path);
    } catch (e) {
      await next.close();
      await rm(`${this.path}.new`, { force: true });
      throw e;
    }
    const old = this.file; // from here on it is no file of this path
    this.file = next;
    this.size = text.length;
    this.lines = 0;
    await old.close();
    const folder = await open(dirname(this.path), "r");
    await folder.sync().catch(() => {}); // not everywhere
    await folder.close();
  }
}

async function apply(m: MemoryStore, l: Line): Promise<void> {
  if ("put" in l) return m.putOutgoing(l.put);
  if ("replace" in l) return m.replaceOutgoing(l.replace, l.by);
  if ("drop" in l) return m.dropOutgoing(l.drop);
  return m.save(l.save);
}
