// What the app says, in the language that the user chose or that the browser asks for.

import { ref, watchEffect } from "vue";
import { read, write } from "../state/settings";
import { en, type Key } from "./en";
import { zh } from "./zh";

export type { Key };

export const languages = { en: "English", zh: "中文" } as const;
export type Language = keyof typeof languages;

const words: Record<Language, Record<Key, string>> = { en, zh };

const chosen = read("language");
export const language = ref<Language>(chosen === "en" || chosen === "zh" ? chosen : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

watchEffect(() => (document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en"));

export function choose(l: Language): void {
  language.value = l;
  write("language", l);
}

/** Signs that change in which direction what stands around them is read. */
const turning = /[\u0590-\u08FF\u200E\u200F\u202A-\u202E\u2066-\u2069\uFB1D-\uFDFF\uFE70-\uFEFC]/u;

/** A text such that its direction ends where it ends. */
export const apart = (text: string): string => (turning.test(text) ? `\u2068${text}\u2069` : text);

/** The words for key, with {name} replaced by what values has under it. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return words[language.value][key].replace(/\{(\w+)\}/g, (all, name: string) => apart(String(values[name] ?? all)));
}

/** What an error of this name of the registry says; undefined: what the server told says more. */
export function errorWords(name: string): string | undefined {
  const key = `err.${name}`;
  return key in en ? t(key as Key) : undefined;
}

/** An hour and a minute, as one writes them in the language. */
export function clock(ms: number): string {
  return new Intl.DateTimeFormat(language.value, { hour: "numeric", minute: "2-digit" }).format(ms);
}

const startOfDay = (ms: number) => new Date(ms).setHours(0, 0, 0, 0);
const oneDay = 24 * 3600 * 1000;

/** How many midnights lie between two times. */
export const daysBetween = (a: number, b: number): number => Math.round((startOfDay(b) - startOfDay(a)) / oneDay);

/** The day of a message, for the line between two days. */
export function day(ms: number, now: number): string {
  const ago = daysBetween(ms, now);
  if (ago === 0) return t("chat.today");
  if (ago === 1) return t("chat.yesterday");
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return new Intl.DateTimeFormat(language.value, sameYear ? { month: "long", day: "numeric" } : { dateStyle: "long" }).format(ms);
}

/** A time as short as it can be told: of today the hour, of this week the day, else the date. */
export function brief(ms: number, now: number): string {
  if (ms === 0) return "";
  const ago = daysBetween(ms, now);
  if (ago <= 0) return clock(ms);
  if (ago < 7) return new Intl.DateTimeFormat(language.value, { weekday: "short" }).format(ms);
  return new Intl.DateTimeFormat(language.value, { dateStyle: "short" }).format(ms);
}
