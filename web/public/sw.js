// Keeps the app itself in the browser, so that it opens without a connection: chats are in the browser's database anyway.
// The page comes from the server whenever that answers; what it loads has its contents' hash in its name.
const cacheName = "gochat";
const patience = 5000; // milliseconds

/** Keeps a page with all that it loads, and nothing else. */
async function keep(page) {
  const cache = await caches.open(cacheName);
  const files = [...(await page.clone().text()).matchAll(/(?:src|href)="(\/[^"]+)"/g)].map((m) => m[1]);
  for (const f of files) if (!(await cache.match(f))) await cache.add(f);
  await cache.put("/", page);
  for (const r of await cache.keys()) {
    const { pathname } = new URL(r.url);
    if (pathname !== "/" && !files.includes(pathname)) await cache.delete(r);
  }
}

async function page(event) {
  const kept = await caches.match("/");
  try {
    const fresh = await fetch(event.request, kept ? { signal: AbortSignal.timeout(patience) } : {});
    if (fresh.ok && fresh.headers.get("etag") !== kept?.headers.get("etag")) event.waitUntil(keep(fresh.clone()).catch(() => {}));
    if (fresh.ok || !kept || fresh.status < 500) return fresh;
  } catch (e) {
    if (!kept) throw e;
  }
  return kept;
}

self.addEventListener("install", (e) => e.waitUntil(fetch("/", { cache: "no-cache" }).then(keep).then(() => self.skipWaiting())));
self.addEventListener("activate", (e) => e.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (e) => {
  const { origin, pathname } = new URL(e.request.url);
  if (e.request.method !== "GET" || origin !== self.location.origin) return;
  if (pathname === "/") e.respondWith(page(e));
  else if (pathname.startsWith("/assets/") || pathname === "/icon.svg") e.respondWith(caches.match(e.request).then((kept) => kept ?? fetch(e.request)));
});
