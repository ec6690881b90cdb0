// Finding people by name or id.

import type { Profile } from "@gochat/client";
import { fetchJson, user } from "./session";

interface Found {
  users: { user_id: string; name?: string; avatar?: string }[];
}

let timer: ReturnType<typeof setTimeout> | undefined;
let waiting: ((go: boolean) => void) | undefined;

/** Whoever is called, or whose id begins, like that; nobody while words are still being typed, and where the server doesn't tell. */
export async function findPeople(words: string): Promise<Profile[]> {
  words = words.trim();
  if (new TextEncoder().encode(words).length > 64) words = ""; // longer than any name
  waiting?.(false);
  clearTimeout(timer);
  if (words.length < 2 && !/\p{Script=Han}/u.test(words)) return [];
  const go = await new Promise<boolean>((resolve) => {
    waiting = resolve;
    timer = setTimeout(() => resolve(true), 200);
  });
  if (!go) return [];
  try {
    const a = await fetchJson<Found>(`/api/v1/users/search?q=${encodeURIComponent(words)}`);
    return a.users.filter((u) => u.user_id !== user.value).map((u) => ({ user: u.user_id, name: u.name ?? "", avatar: u.avatar ?? "", ext: new Uint8Array(), version: 0n }));
  } catch {
    return [];
  }
}
