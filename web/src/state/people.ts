// What people show of themselves: fetched when first shown, all that one screen asks for in one call.

import type { Profile } from "@gochat/client";
import { reactive } from "vue";
import { chat, user as me, whileSignedIn } from "./session";
import { read, write } from "./settings";

const known = reactive(new Map<string, Profile>());
/** Those of whom the server was asked in this session; the others are as they were in the last one. */
const fresh = new Set<string>();
const wanted = new Set<string>();
let asking = false;

/** How many are remembered at most, and how many of them for the next session. */
const most = 5000;
const mostKept = 300;

whileSignedIn((c) => {
  recall();
  const off = c.on("profile", learn);
  // What changed while nobody was connected wasn't told: who is shown is asked for again.
  const again = c.on("connected", () => fresh.clear());
  window.addEventListener("pagehide", keep);
  return () => {
    off();
    again();
    window.removeEventListener("pagehide", keep);
    known.clear();
    wanted.clear();
    fresh.clear();
  };
});

/** So that a page that is loaded again shows names at once, and without a connection. */
function keep(): void {
  const some = [...known.values()].filter((p) => p.name || p.avatar).slice(-mostKept);
  write(`people.${me.value}`, JSON.stringify(some.map((p) => [p.user, p.name, p.avatar])));
}

function recall(): void {
  try {
    for (const [user, name, avatar] of JSON.parse(read(`people.${me.value}`) ?? "[]") as string[][]) {
      if (user) known.set(user, { ...nobody(user), name: name ?? "", avatar: avatar ?? "" });
    }
  } catch {
    // it is asked for anyway
  }
}

const nobody = (user: string): Profile => ({ user, name: "", avatar: "", ext: new Uint8Array(), version: 0n });

/** What is known of a user; more is asked for if it is nothing. */
export function person(user: string): Profile {
  if (user && !fresh.has(user) && !wanted.has(user)) {
    wanted.add(user);
    if (!asking) queueMicrotask(ask);
  }
  return known.get(user) ?? nobody(user);
}

/** What a user is called. */
export const nameOf = (user: string): string => person(user).name || user;

export function learn(p: Profile): void {
  fresh.add(p.user);
  // A lower version is late: an answer that a signal has overtaken, or the other way round.
  if (p.version >= (known.get(p.user)?.version ?? 0n)) known.set(p.user, p);
}

async function ask(): Promise<void> {
  const c = chat.value;
  if (asking || wanted.size === 0 || !c) return;
  asking = true;
  const users = [...wanted];
  try {
    const found = await c.profiles(users);
    if (known.size > most) {
      known.clear();
      fresh.clear();
    }
    for (const u of users) learn(found.get(u) ?? nobody(u));
  } catch {
    // asked for again when it is shown again
  } finally {
    for (const u of users) wanted.delete(u);
    asking = false;
    if (wanted.size > 0) queueMicrotask(ask);
  }
}
