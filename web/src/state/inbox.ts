// The list of conversations, and which one is open.

import { ConversationKind, conversationKind, directConversation, MessageType, validId, type Conversation, type Message } from "@gochat/client";
import { computed, ref, shallowRef, watchEffect } from "vue";
import { t } from "../i18n";
import { nameOf } from "./people";
import { chat, user, whileSignedIn } from "./session";
import { notify } from "./settings";
import { preview } from "./words";

export const conversations = shallowRef<Conversation[]>([]);
/** The conversation that is open; "": none. It may not exist yet: then peerOpen says with whom it would be. */
export const open = ref("");
export const peerOpen = ref("");
export const search = ref("");

whileSignedIn((c) => {
  let due = false;
  const show = () => {
    due = false;
    conversations.value = c.conversations.all();
  };
  const unwatch = c.conversations.watch(() => {
    if (!due) requestAnimationFrame(show), (due = true);
  });
  const off = [c.on("message", (m) => announce(m))];
  show();
  follow();
  return () => {
    unwatch();
    for (const o of off) o();
    conversations.value = [];
    open.value = peerOpen.value = search.value = "";
  };
});

export const isGroup = (id: string): boolean => conversationKind(id) === ConversationKind.Group;

/** The open conversation as it stands; undefined if there is none, or it isn't made yet. */
export const current = computed<Conversation | undefined>(() => {
  void conversations.value; // moves with each change
  return open.value ? chat.value?.conversations.get(open.value) : undefined;
});

/** With whom a direct conversation is. */
export const peerOf = (c: Conversation): string => c.peer || c.users.find((u) => u !== user.value) || c.users[0] || "";

export const titleOf = (c: Conversation): string => (isGroup(c.id) ? c.name || t("info.group") : nameOf(peerOf(c)));

/** The conversations whose name or last message has the words that are searched for. */
export const found = computed(() => {
  const words = search.value.trim().toLocaleLowerCase();
  if (!words) return conversations.value;
  return conversations.value.filter((c) => `${titleOf(c)}\n${c.peer}\n${c.preview}`.toLocaleLowerCase().includes(words));
});

/** Opens a conversation; "": none. */
export function show(id: string): void {
  location.hash = id ? `#/c/${id}` : "#/";
}

/** Opens the conversation with a user, whether there is one yet or not. */
export function showUser(id: string): void {
  location.hash = `#/u/${encodeURIComponent(id)}`;
}

/** Goes where the address says. */
function follow(): void {
  const [, kind, name] = /^#\/([cu])\/(.+)$/.exec(location.hash) ?? [];
  let id = "";
  let peer = "";
  try {
    if (kind === "u" && name) {
      peer = decodeURIComponent(name);
      id = user.value && validId(peer) ? directConversation(user.value, peer) : "";
    }
    else if (kind === "c" && name && conversationKind(name) > 0) id = name;
  } catch {
    // an address that somebody mistyped
  }
  open.value = id;
  peerOpen.value = (id && peer) || (id ? (chat.value?.conversations.get(id)?.peer ?? "") : "");
}
window.addEventListener("hashchange", follow);
watchEffect(() => chat.value && follow());

const unread = computed(() => conversations.value.reduce((n, c) => n + (c.muted ? 0 : c.unread), 0));
watchEffect(() => (document.title = unread.value > 0 ? `(${unread.value}) GoChat` : "GoChat"));

/** Tells of a message with the system's means, if the user wants that and looks elsewhere. */
function announce(m: Message): void {
  if (!notify.value || m.own || document.visibilityState === "visible" || (m.type >= MessageType.Membership && m.type < 1000)) return;
  const c = chat.value?.conversations.get(m.conversation);
  if (!c || Date.now() - m.time > 60_000) return;
  const mentioned = m.mentionAll || m.mentions?.includes(user.value);
  if (c.muted && !mentioned) return;
  const who = nameOf(m.sender);
  let n: Notification;
  try {
    n = new Notification(isGroup(c.id) ? `${titleOf(c)} · ${who}` : who, { body: preview(m.type, m.text), tag: m.conversation, icon: "/icon.svg" });
  } catch {
    return; // some phones show notifications of installed apps only
  }
  n.onclick = () => {
    window.focus();
    show(m.conversation);
    n.close();
  };
}
