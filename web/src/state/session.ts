// Who is signed in, and the client that belongs to them.

import { Account, Code, ConnectionError, DeviceKind, GoChatError, IndexedDBStore, localGrants, MemoryStore, newDeviceId, open, type Chat, type ConnectionState } from "@gochat/client";
import { ref, shallowRef } from "vue";
import { errorWords, t } from "../i18n";
import { forget, read, say, write } from "./settings";

/** undefined: it isn't known yet. */
export const chat = shallowRef<Chat>();
export const user = ref("");
export const connection = ref<ConnectionState>("idle");
/** Why there is no connection, for people. */
export const trouble = ref("");
/** Whether it is known if somebody is signed in. */
export const ready = ref(false);

let account: Account;

/** What belongs to a session besides the client: called with each new one. Returns how to end it. */
type Part = (chat: Chat) => () => void;
const parts: Part[] = [];
let ends: (() => void)[] = [];

/** Makes part of each session what fn sets up. */
export function whileSignedIn(fn: Part): void {
  parts.push(fn);
}

/** Words for an error, for people. */
export function reason(e: unknown): string {
  const name = e instanceof GoChatError ? e.name : e instanceof ConnectionError ? "connection" : "";
  const words = errorWords(name) ?? (e instanceof Error ? e.message : String(e));
  const wait = e instanceof GoChatError && e.code === Code.RateLimited ? Math.ceil(e.retryAfterMs / 1000) : 0;
  return wait > 1 ? `${words} ${t("err.wait", { n: wait })}` : words;
}

/** Runs what a click asked for, and says so if it fails. */
export async function attempt<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (e) {
    say(t("common.failed", { reason: reason(e) }), true);
    return undefined;
  }
}

/** Finds out who is signed in. */
export async function begin(): Promise<void> {
  account = await Account.open("", localGrants());
  try {
    if (account.grant) await enter();
  } finally {
    ready.value = true;
  }
  // Another tab signed out, or in as somebody else: this one begins again, as what is so now.
  const known = account;
  window.addEventListener("storage", (e) => {
    if (e.key !== "gochat.grant" || grantedUser(e.newValue) === (known.grant?.user ?? "")) return;
    for (const end of ends.splice(0)) end();
    location.reload();
  });
}

function grantedUser(grant: string | null): string {
  try {
    return String((JSON.parse(grant ?? "null") as { user?: string } | null)?.user ?? "");
  } catch {
    return "";
  }
}

/** Every installation has one id, whoever signs in. */
function device(): string {
  const known = read("device");
  if (known) return known;
  const made = newDeviceId();
  write("device", made);
  return made;
}

export async function sign(how: "register" | "login", name: string, password: string): Promise<void> {
  await account[how]({ name, password, device: device(), kind: DeviceKind.Web });
  await enter();
}

export const changePassword = (old: string, next: string): Promise<void> => account.changePassword(old, next);

/** An answer of the HTTP API. */
export async function fetchJson<T>(path: string): Promise<T> {
  const r = await fetch(path, { headers: { authorization: `Bearer ${await account.token()}` } });
  const body = (await r.json()) as T & { error?: { code?: number; message?: string } };
  if (!r.ok) throw new GoChatError(body.error?.code ?? Code.Internal, body.error?.message ?? `HTTP ${r.status}`, 0, true);
  return body;
}

const database = (user: string) => `gochat.${user}`;

/** The browser's database; where there is none (windows that keep nothing) memory, which forgets with the page. */
const openStore = (user: string) => (typeof indexedDB === "undefined" ? new MemoryStore() : IndexedDBStore.open(database(user)));

async function enter(): Promise<void> {
  const grant = account.grant!;
  const c = await open({
    url: "/ws", token: account.token, device: grant.device, kind: DeviceKind.Web, client: "gochat-web", store: () => openStore(grant.user),
  });
  user.value = grant.user;
  trouble.value = "";
  connection.value = c.state;
  ends = [
    c.on("state", ({ state }) => void (connection.value = state)),
    c.on("connected", () => void (trouble.value = "")),
    c.on("disconnected", ({ error }) => void (trouble.value = reason(error))),
    c.on("stopped", ({ error }) => void stopped(error)),
    ...parts.map((p) => p(c)),
  ];
  chat.value = c;
  c.start();
}

/** The client won't connect any more. */
async function stopped(error: Error): Promise<void> {
  trouble.value = reason(error);
  const gone: number[] = [Code.SessionRevoked, Code.Banned, Code.Unauthenticated];
  if (!(error instanceof GoChatError) || !gone.includes(error.code)) return;
  await leave();
  say(t("sign.ended", { reason: reason(error) }), true);
}

/** Ends the session, and forgets it and all that this browser kept of it. */
async function leave(): Promise<void> {
  const c = chat.value;
  const who = user.value;
  chat.value = undefined;
  user.value = "";
  for (const end of ends.splice(0)) end();
  history.replaceState(null, "", "#/");
  const told = account.logout().catch(() => {}); // the server hears of it when the token isn't refreshed any more
  forget(`people.${who}`, `drafts.${who}`, `refused.${who}`);
  await c?.close();
  if (typeof indexedDB !== "undefined") IndexedDBStore.delete(database(who)).catch(() => {}); // deleted once other tabs have let go of it
  await told;
}

export const signOut = leave;
