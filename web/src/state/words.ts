// Messages in words.

import { groupChangeOf, membershipOf, MessageType, nicknameOf, validId, type Message } from "@gochat/client";
import { apart, t, type Key } from "../i18n";
import { nameOf } from "./people";

const media: Record<number, Key> = { [MessageType.Image]: "type.image", [MessageType.File]: "type.file", [MessageType.Voice]: "type.voice", [MessageType.Video]: "type.video" };

/** One line for a message of users, for lists. */
export function preview(type: number, text: string): string {
  if (type === MessageType.Text || type === 0) return text.replace(/\s+/g, " ");
  return t(media[type] ?? "type.unknown");
}

/** The users whom a text calls by @id: up to the next space or sign that ends a clause, as far as that can be an id. At most 50. */
export function mentionsIn(text: string): string[] {
  const called = [...text.matchAll(/(?:^|\s)@([^\s@,;:!?\u3001\u3002\uFF01\uFF0C\uFF1A\uFF1B\uFF1F]+)/gu)].map((m) => m[1]!);
  return [...new Set(called)].filter(validId).slice(0, 50);
}

/** Whether a message is the server's own, to be told in a line rather than shown as somebody's words. */
export const isSystem = (type: number): boolean => type >= 64 && type < 128;

/** What a message of the server's says. */
export function systemLine(m: Message): string {
  const who = nameOf(m.sender);
  const change = membershipOf(m);
  if (change) {
    const some = change.users?.slice(0, 3).map((u) => apart(nameOf(u))).join(", ") ?? "";
    const rest = Math.max(change.count ?? 0, change.users?.length ?? 0) - 3;
    const users = rest > 0 ? t("sys.more", { users: some, n: rest }) : some;
    const role = t(roleKey(change.role));
    switch (change.do) {
      case "create": case "add": case "join": case "leave": case "remove": case "role":
        return t(`sys.${change.do}`, { who, users, role });
    }
  }
  const group = groupChangeOf(m);
  if (group) return group.name === undefined ? t("sys.changed", { who }) : t("sys.renamed", { who, name: group.name });
  const nick = nicknameOf(m);
  if (nick !== undefined) return nick ? t("sys.nickname", { who, name: nick }) : t("sys.noNickname", { who });
  return t("type.unknown");
}

const roleKey = (role: string | undefined): Key => (role === "owner" ? "role.owner" : role === "admin" ? "role.admin" : "role.member");

/** What a message of types 2 to 5 refers to. */
export interface Media {
  label: string;
  /** An address that may be shown or opened: of this server, or over https. "" if there is none such. */
  url: string;
  thumbnail: string;
  name: string;
  image: boolean;
}

export function mediaOf(m: Message): Media | undefined {
  const label = media[m.type];
  if (!label) return undefined;
  let o: Record<string, unknown> = {};
  try {
    const v: unknown = JSON.parse(m.text);
    if (typeof v === "object" && v !== null) o = v as Record<string, unknown>;
  } catch {
    // shown by its label alone
  }
  return { label: t(label), url: safeUrl(o.url), thumbnail: safeUrl(o.thumbnail), name: typeof o.name === "string" ? o.name : "", image: m.type === MessageType.Image };
}

/** An address that is harmless to load: https, or one of this server's own. "" for others: scripts and data are what an attacker would send. */
export function safeUrl(v: unknown): string {
  if (typeof v !== "string" || v === "") return "";
  try {
    const u = new URL(v, location.origin);
    return u.protocol === "https:" || (u.protocol === "http:" && u.origin === location.origin) ? u.href : "";
  } catch {
    return "";
  }
}

/** A text in pieces, of which some are links. */
export function pieces(text: string): { text: string; href?: string }[] {
  const out: { text: string; href?: string }[] = [];
  let at = 0;
  for (const m of text.matchAll(/https?:\/\/[^\s<>"'`]+[^\s<>"'`.,;:!?)\]}。，；：！？）】]/gu)) {
    if (m.index > at) out.push({ text: text.slice(at, m.index) });
    out.push({ text: m[0], href: m[0] });
    at = m.index + m[0].length;
  }
  if (at < text.length) out.push({ text: text.slice(at) });
  return out;
}
