// The app's modules as Node can load them, on a page that isn't there.
import { createServer } from "vite";

const vite = await createServer({ root: new URL("..", import.meta.url).pathname, server: { middlewareMode: true, hmr: false, ws: false, watch: null }, optimizeDeps: { noDiscovery: true }, appType: "custom", logLevel: "error" });
await import("vue"); // it looks for a page of its own, and does without

const kept = new Map();
const set = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
set("localStorage", { getItem: (k) => kept.get(k) ?? null, setItem: (k, v) => void kept.set(k, String(v)), removeItem: (k) => void kept.delete(k) });
set("window", Object.assign(new EventTarget(), { focus() {} }));
set("document", { documentElement: { dataset: {}, lang: "" }, title: "", visibilityState: "visible" });
set("location", { origin: "https://chat.example.com", hash: "" });
set("navigator", { language: "en-US" });
const interval = globalThis.setInterval;
set("setInterval", (...args) => interval(...args).unref());

/** Loads one of the modules below src. */
export const load = (name) => vite.ssrLoadModule(`/src/${name}.ts`);
export const close = () => vite.close();
