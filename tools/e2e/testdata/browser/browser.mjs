// A browser that does what it is told: one JSON object a line, {"id", "window", "do", "args"}, is answered with {"id", "value"} or
// {"id", "error"}. Windows are by name; one that is opened with `beside` is a tab of the same browser profile as another.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import * as user from './user.mjs'

const [library, executablePath] = process.argv.slice(2)
const { chromium } = createRequire(library + '/')('playwright-core')
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars'],
})
const windows = new Map()

async function open (name, { url, beside, width = 1200, height = 760, touch = false, dark = false, locale = 'en-US', zoom = 1, permissions = [] }) {
  const context = beside ? windows.get(beside).page.context() : await browser.newContext({
    viewport: { width, height }, hasTouch: touch, isMobile: touch, colorScheme: dark ? 'dark' : 'light', locale, timezoneId: 'UTC', deviceScaleFactor: zoom, permissions,
    reducedMotion: 'reduce',
  })
  if (!beside) context.setDefaultTimeout(30_000)
  const page = await context.newPage()
  // Whether the form to sign in was ever shown since the page was loaded.
  await page.addInitScript(() => new MutationObserver(() => { window.sawDoor ||= !!document.querySelector('form.card') }).observe(document, { childList: true, subtree: true }))
  const w = { page, trouble: [] }
  page.on('pageerror', e => w.trouble.push('error: ' + e.message))
  page.on('console', m => {
    if (m.type() === 'error' && !/ERR_|Failed to load resource|WebSocket connection/.test(m.text())) w.trouble.push('console: ' + m.text())
  })
  page.on('dialog', d => {
    w.trouble.push('dialog: ' + d.message())
    return d.dismiss()
  })
  windows.set(name, w)
  await page.goto(url)
}

async function obey ({ window: name, do: what, args }) {
  args ??= []
  if (what === 'open') return open(name, ...args)
  const w = windows.get(name)
  if (what === 'trouble') return w.trouble
  if (what === 'close') {
    windows.delete(name)
    return w.page.close()
  }
  return user[what](w.page, ...args)
}

// Nothing is done twice at once in a window, but windows don't wait for each other.
const tails = new Map()
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  const before = tails.get(order.window) ?? Promise.resolve()
  tails.set(order.window, before.then(() => obey(order)).then(
    value => process.stdout.write(JSON.stringify({ id: order.id, value }) + '\n'),
    e => process.stdout.write(JSON.stringify({ id: order.id, error: String(e.message) }) + '\n')))
}
await browser.close()
