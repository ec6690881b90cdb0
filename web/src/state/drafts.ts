// What the user has begun to write, by conversation; this browser keeps it until it is sent.

import { reactive } from "vue";
import { user, whileSignedIn } from "./session";
import { read, write } from "./settings";

export const drafts = reactive(new Map<string, string>());

/** How much is kept at most, in characters: what was begun last stays. */
const most = 100_000;

let due: ReturnType<typeof setTimeout> | undefined;

whileSignedIn(() => {
  try {
    for (const [id, text] of JSON.parse(read(`drafts.${user.value}`) ?? "[]") as [string, string][]) drafts.set(id, text);
  } catch {
    // nothing that can be read
  }
  window.addEventListener("pagehide", keep);
  return () => {
    clearTimeout(due);
    due = undefined;
    window.removeEventListener("pagehide", keep);
    drafts.clear();
  };
});

export function setDraft(conversation: string, text: string): void {
  drafts.delete(conversation);
  if (text.trim()) drafts.set(conversation, text);
  due ??= setTimeout(keep, 1000);
}

function keep(): void {
  clearTimeout(due);
  due = undefined;
  const some: [string, string][] = [];
  let size = 0;
  for (const d of [...drafts].reverse()) if ((size += d[1].length) <= most) some.unshift(d);
  if (user.value) write(`drafts.${user.value}`, JSON.stringify(some));
}
