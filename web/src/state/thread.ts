// One conversation as it is shown: a stretch of its messages up to the newest, and what of the user's own is still under way.

import type { Chat, Message, Target } from "@gochat/client";
import { computed, reactive, ref, shallowReactive, shallowRef } from "vue";
import { chat, reason, user, whileSignedIn } from "./session";
import { read, write } from "./settings";

/** A message of the user's own that the server hasn't stored yet, or refused. */
export interface Pending {
  id: string;
  conversation: string;
  target: Target;
  text: string;
  replyToSeq?: bigint;
  mentions?: string[];
  time: number;
  /** Why it was refused; "": it wasn't. */
  failed: string;
}

/** Of all conversations, in the order in which they were written. */
export const pending = reactive<Pending[]>([]);
/** Who types where: their users by conversation. */
export const typing = reactive(new Map<string, string[]>());
/** The thread that is shown. */
export const thread = shallowRef<Thread>();

const page = 50;
/** A thread whose end is in sight keeps this many messages at most, and then the newest half of them. */
const most = 600;
/** How many refused messages are kept at most. */
const mostRefused = 50;
/** How many pages are loaded at most to get to an older message that was asked for. */
const farthest = 100;

whileSignedIn((c) => {
  pending.push(...refused());
  void c.outbox().then((all) => { // written before this page was loaded
    for (const { id, conversation, to, time, content } of all) {
      if (chat.value === c && !pending.some((p) => p.id === id)) pending.push({ id, conversation, target: to, text: content.text ?? "", replyToSeq: content.replyToSeq, mentions: content.mentions, time, failed: "" });
    }
  }).catch(() => {}); // the session ended, or the store can't be read: the banner tells
  const off = [
    c.on("message", (m) => {
      settle(m.clientMsgId);
      if (thread.value?.conversation === m.conversation) thread.value.add(m);
      quiet(m.conversation, m.sender);
    }),
    c.on("sent", ({ id, ack }) => {
      // Until the message itself comes it stays where it is, as stored.
      if (thread.value?.conversation !== ack.conversation) settle(id);
    }),
    c.on("failed", ({ id, error }) => {
      const p = pending.find((q) => q.id === id);
      if (!p) return;
      p.failed = reason(error);
      keepRefused([...refused().filter((q) => q.id !== id), p]);
    }),
    c.on("typing", ({ conversation, user, on }) => {
      if (user === c.user) return;
      if (!on) return quiet(conversation, user);
      const who = typing.get(conversation) ?? [];
      if (!who.includes(user)) typing.set(conversation, [...who, user]);
    }),
    c.on("resynced", () => thread.value?.reload()),
    c.conversations.watch((id) => { // it may be heard of only after it was opened
      const th = thread.value;
      if (th && th.messages.length === 0 && (id === "" || id === th.conversation)) void th.load();
    }),
  ];
  return () => {
    for (const o of off) o();
    pending.splice(0);
    typing.clear();
    thread.value = undefined;
  };
});

function settle(id: string): void {
  const at = id ? pending.findIndex((p) => p.id === id) : -1;
  if (at < 0) return;
  const [p] = pending.splice(at, 1);
  if (p!.failed) keepRefused(refused().filter((q) => q.id !== id));
}

/** What was refused is in no outbox any more; this browser keeps it until it is sent anew, or removed. */
function refused(): Pending[] {
  try {
    const all = JSON.parse(read(`refused.${user.value}`) ?? "[]") as (Omit<Pending, "replyToSeq"> & { replyToSeq?: string })[];
    return all.map((p) => ({ ...p, replyToSeq: p.replyToSeq === undefined ? undefined : BigInt(p.replyToSeq) }));
  } catch {
    return []; // nothing that can be read
  }
}

function keepRefused(all: Pending[]): void {
  write(`refused.${user.value}`, JSON.stringify(all.slice(-mostRefused), (_, v: unknown) => (typeof v === "bigint" ? String(v) : v)));
}

function quiet(conversation: string, user: string): void {
  const who = typing.get(conversation)?.filter((u) => u !== user);
  if (who?.length) typing.set(conversation, who);
  else typing.delete(conversation);
}

export class Thread {
  /** Ascending, without a hole that isn't the server's. */
  readonly messages = shallowReactive<Message[]>([]);
  readonly loading = ref(false);
  readonly failed = ref(false);
  /** Whether there are older ones. */
  readonly more = ref(true);
  /** How far the user had read when the conversation was opened; undefined: it isn't known, or nothing is new. */
  readonly opened = shallowRef<bigint>();
  /** Whether it was opened before there was anything in it: what comes then is seen as it comes. */
  private empty = false;
  private marked = 0n;
  private beginning: Promise<void> | undefined;
  private going: Promise<void> | undefined;

  constructor(
    private readonly chat: Chat,
    readonly conversation: string,
    readonly target: Target,
  ) {
    void this.load();
  }

  /** The user's own that are under way. */
  readonly waiting = computed(() => pending.filter((p) => p.conversation === this.conversation));

  /** Begins with the newest messages: what this device has at once, then what the server says. Does nothing if there are any. */
  load(): Promise<void> {
    return (this.beginning ??= this.begin().finally(() => (this.beginning = undefined)));
  }

  private async begin(): Promise<void> {
    if (this.messages.length > 0) return;
    const known = this.chat.conversations.get(this.conversation);
    if (!known || known.lastSeq === 0n) {
      this.more.value = false; // it isn't made yet, or this device hasn't heard of it
      this.empty = true;
      return;
    }
    this.more.value = true;
    if (!this.opened.value && (known.readSeq > 0n || (known.unread > 0 && !this.empty))) this.opened.value = known.readSeq;
    const cached = await this.chat.cached(this.conversation, 0n, page).catch(() => []);
    if (this.messages.length === 0) this.messages.push(...tail(cached));
    this.more.value = (this.messages[0]?.seq ?? 2n) > 1n;
    if (this.messages.length < page) await this.older();
    // What is unread is to be seen from its beginning.
    const from = this.opened.value;
    while (from !== undefined && this.more.value && !this.failed.value && (this.messages[0]?.seq ?? 0n) > from + 1n && this.messages.length < 4 * page) await this.older();
  }

  /** Forgets all, and begins again. */
  async reload(): Promise<void> {
    this.messages.splice(0);
    this.marked = 0n;
    await this.load();
  }

  /** Loads what is older until a message is there. Returns it; undefined if it is out of reach. */
  async reach(seq: bigint): Promise<Message | undefined> {
    for (let n = 0; n < farthest && this.more.value && !this.failed.value && (this.messages[0]?.seq ?? 0n) > seq; n++) await this.older();
    return this.find(seq);
  }

  /** Lets go of what is far above the end, which is in sight. */
  trim(): void {
    if (this.messages.length <= most || this.loading.value) return;
    this.messages.splice(0, this.messages.length - most / 2);
    this.more.value = true;
  }

  /** Loads what came before the first message here. */
  async older(): Promise<void> {
    if (this.more.value) await (this.going ??= this.page().finally(() => (this.going = undefined)));
  }

  private async page(): Promise<void> {
    this.loading.value = true;
    this.failed.value = false;
    try {
      const before = this.messages[0]?.seq ?? 0n;
      const p = await this.chat.history(this.conversation, before, page);
      const top = this.messages[0]?.seq;
      this.messages.unshift(...(top === undefined ? p.messages : p.messages.filter((m) => m.seq < top)));
      this.more.value = p.more && p.messages.length > 0;
    } catch {
      this.failed.value = true;
    } finally {
      this.loading.value = false;
    }
  }

  /** Takes in a message that came. */
  add(m: Message): void {
    const last = this.messages.at(-1);
    if (last && m.seq <= last.seq) return;
    if (!last) this.more.value = m.seq > 1n;
    this.messages.push(m);
  }

  find(seq: bigint): Message | undefined {
    return this.messages.find((m) => m.seq === seq);
  }

  /** The user has seen what is here up to seq. */
  read(seq: bigint): void {
    const c = this.chat.conversations.get(this.conversation);
    if (!c || seq <= c.readSeq || seq <= this.marked || document.visibilityState !== "visible") return;
    const before = this.marked;
    this.marked = seq;
    this.chat.markRead(this.conversation, seq).catch(() => {
      if (this.marked === seq) this.marked = before;
    });
  }

  async send(text: string, replyToSeq?: bigint, mentions?: string[]): Promise<void> {
    const r = await this.chat.send(this.target, { text, replyToSeq, mentions: mentions?.length ? mentions : undefined }, this.messages.at(-1)?.seq);
    r.stored.catch(() => {}); // told by the event
    if (!this.messages.some((m) => m.clientMsgId === r.id)) {
      pending.push({ id: r.id, conversation: this.conversation, target: this.target, text, replyToSeq, mentions, time: Date.now(), failed: "" });
    }
  }

  async retry(p: Pending): Promise<void> {
    await this.send(p.text, p.replyToSeq, p.mentions);
    settle(p.id);
  }

  discard(p: Pending): void {
    settle(p.id);
  }

  typing(on: boolean): void {
    this.chat.typing(this.target, on);
  }
}

/** The end of messages that has no hole. */
function tail(messages: Message[]): Message[] {
  let at = messages.length - 1;
  while (at > 0 && messages[at - 1]!.seq === messages[at]!.seq - 1n) at--;
  return at > 0 ? messages.slice(at) : messages;
}
