// One conversation as it is shown: a stretch of its messages up to the newest, and what of the user's own is still under way.

import type { Chat, Message, Target } from "@gochat/client";
import { computed, reactive, ref, shallowReactive, shallowRef } from "vue";
import { chat, reason, whileSignedIn } from "./session";

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

whileSignedIn((c) => {
  void c.outbox().then((all) => { // written before this page was loaded
    for (const { id, conversation, to, time, content } of all) {
      if (chat.value === c && !pending.some((p) => p.id === id)) pending.push({ id, conversation, target: to, text: content.text ?? "", replyToSeq: content.replyToSeq, mentions: content.mentions, time, failed: "" });
    }
  });
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
      if (p) p.failed = reason(error);
    }),
    c.on("typing", ({ conversation, user, on }) => {
      if (user === c.user) return;
      if (!on) return quiet(conversation, user);
      const who = typing.get(conversation) ?? [];
      if (!who.includes(user)) typing.set(conversation, [...who, user]);
    }),
    c.on("resynced", () => thread.value?.load()),
    c.on("gone", ({ conversation }) => {
      if (thread.value?.conversation === conversation) void thread.value.load();
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
  if (at >= 0) pending.splice(at, 1);
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
  /** How far the user had read when the conversation was opened. */
  readonly opened: bigint;
  private marked = 0n;

  constructor(
    private readonly chat: Chat,
    readonly conversation: string,
    readonly target: Target,
  ) {
    this.opened = chat.conversations.get(conversation)?.readSeq ?? 0n;
    void this.load();
  }

  /** The user's own that are under way. */
  readonly waiting = computed(() => pending.filter((p) => p.conversation === this.conversation));

  /** Begins with the newest messages: what this device has at once, then what the server says. */
  async load(): Promise<void> {
    const known = this.chat.conversations.get(this.conversation);
    if (!known || known.lastSeq === 0n) {
      this.more.value = false;
      return;
    }
    const cached = await this.chat.cached(this.conversation, 0n, page);
    if (this.messages.length === 0) this.messages.push(...tail(cached));
    const top = this.messages[0];
    if (top && top.seq > 1n && this.messages.length < page) await this.older();
    else if (!top) await this.older();
    else this.more.value = top.seq > 1n;
  }

  /** Loads what came before the first message here. */
  async older(): Promise<void> {
    if (this.loading.value || !this.more.value) return;
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
    if (!last || m.seq > last.seq) this.messages.push(m);
  }

  find(seq: bigint): Message | undefined {
    return this.messages.find((m) => m.seq === seq);
  }

  /** The user has seen all that is here. */
  read(): void {
    const c = this.chat.conversations.get(this.conversation);
    const last = this.messages.at(-1);
    if (!c || !last || last.seq <= c.readSeq || last.seq <= this.marked || document.visibilityState !== "visible") return;
    const before = this.marked;
    this.marked = last.seq;
    this.chat.markRead(this.conversation, last.seq).catch(() => (this.marked = before));
  }

  async send(text: string, replyToSeq?: bigint, mentions?: string[]): Promise<void> {
    const r = await this.chat.send(this.target, { text, replyToSeq, mentions: mentions?.length ? mentions : undefined }, this.messages.at(-1)?.seq);
    r.stored.catch(() => {}); // told by the event
    if (!this.messages.some((m) => m.clientMsgId === r.id)) {
      pending.push({ id: r.id, conversation: this.conversation, target: this.target, text, replyToSeq, mentions, time: Date.now(), failed: "" });
    }
  }

  async retry(p: Pending): Promise<void> {
    settle(p.id);
    await this.send(p.text, p.replyToSeq, p.mentions);
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
