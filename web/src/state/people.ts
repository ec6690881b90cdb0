// What people show of themselves: fetched when first shown, all that one screen asks for in one call.

import type { Profile } from "@gochat/client";
import { reactive } from "vue";
import { chat, whileSignedIn } from "./session";

const known = reactive(new Map<string, Profile>());
const wanted = new Set<string>();
let asking = false;

/** How many are remembered at most. */
const most = 5000;

whileSignedIn((c) => {
  const off = c.on("profile", (p) => void known.set(p.user, p));
  return () => {
    off();
    known.clear();
    wanted.clear();
  };
});

const nobody = (user: string): Profile => ({ user, name: "", avatar: "", ext: new Uint8Array(), version: 0n });

/** What is known of a user; more is asked for if it is nothing. */
export function person(user: string): Profile {
  const p = known.get(user);
  if (p) return p;
  if (user) {
    wanted.add(user);
    queueMicrotask(ask);
  }
  return nobody(user);
}

/** What a user is called. */
export const nameOf = (user: string): string => person(user).name || user;

export function learn(p: Profile): void {
  known.set(p.user, p);
}

async function ask(): Promise<void> {
  const c = chat.value;
  if (asking || wanted.size === 0 || !c) return;
  asking = true;
  const users = [...wanted];
  try {
    const found = await c.profiles(users);
    if (known.size > most) known.clear();
    for (const u of users) known.set(u, found.get(u) ?? nobody(u));
  } catch {
    // asked for again when it is shown again
  } finally {
    for (const u of users) wanted.delete(u);
    asking = false;
    if (wanted.size > 0) queueMicrotask(ask);
  }
}
