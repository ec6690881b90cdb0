// What this browser remembers of how the user likes the app, and what the app shows of itself.

import { reactive, ref, watchEffect } from "vue";

/** Reads a setting of this browser; undefined if there is none, or storage is closed to the page. */
export function read(name: string): string | undefined {
  try {
    return localStorage.getItem(`gochat.${name}`) ?? undefined;
  } catch {
    return undefined;
  }
}

export function write(name: string, value: string): void {
  try {
    localStorage.setItem(`gochat.${name}`, value);
  } catch {
    // private windows: it holds until the page is closed
  }
}

export function forget(...names: string[]): void {
  try {
    for (const n of names) localStorage.removeItem(`gochat.${n}`);
  } catch {
    // then there was nothing
  }
}

export type Theme = "auto" | "light" | "dark";
const themes: Theme[] = ["auto", "light", "dark"];
export const theme = ref<Theme>(themes.find((t) => t === read("theme")) ?? "auto");

watchEffect(() => {
  write("theme", theme.value);
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});

/** Whether the user wants to be told of messages while they look elsewhere. */
export const notify = ref(read("notify") === "on" && typeof Notification !== "undefined" && Notification.permission === "granted");
watchEffect(() => write("notify", notify.value ? "on" : "off"));

/** Something to be said in passing. */
export const toast = reactive({ text: "", wrong: false });
let hide: ReturnType<typeof setTimeout> | undefined;

export function say(text: string, wrong = false): void {
  toast.text = text;
  toast.wrong = wrong;
  clearTimeout(hide);
  hide = setTimeout(() => (toast.text = ""), wrong ? 6000 : 3000);
}

/** The time, as far as what is shown depends on it: it moves once a minute. */
export const now = ref(Date.now());
setInterval(() => (now.value = Date.now()), 60_000);
