// What a person does in a window of the web app, and what they see there.

const box = page => page.getByLabel('Write a message', { exact: true })
const row = (page, title) => page.locator('button.line', { has: page.locator('strong', { hasText: title }) }).first()
const listed = page => page.getByPlaceholder('Search').waitFor()

async function sign (page, name, password, button) {
  await page.getByLabel('User name').fill(name)
  await page.getByLabel(/^Password/).fill(password)
  await page.getByRole('button', { name: button }).click()
}

export async function signUp (page, name, password) {
  await page.getByRole('button', { name: /New here/ }).click()
  await sign(page, name, password, 'Create account')
  await listed(page)
}

export async function signIn (page, name, password) {
  await sign(page, name, password, 'Sign in')
  await listed(page)
}

export async function signInChinese (page, name, password) {
  await page.getByLabel('用户名').fill(name)
  await page.getByLabel(/^密码/).fill(password)
  await page.getByRole('button', { name: '登录' }).first().click()
  await page.getByPlaceholder('搜索').waitFor()
}

export async function signOut (page) {
  await page.getByRole('button', { name: 'Settings and profile' }).click()
  await page.getByRole('button', { name: 'Sign out', exact: true }).last().click()
  await page.getByLabel('User name').waitFor()
}

export const signedOut = page => page.getByLabel('User name').waitFor()

export const goto = (page, url) => page.goto(url)
export const hash = (page, h) => page.evaluate(to => { location.hash = to }, h)
export const reload = page => page.reload({ waitUntil: 'domcontentloaded' })
export const offline = (page, off) => page.context().setOffline(off)
export const text = (page, selector) => page.locator(selector).first().innerText()
export const count = (page, selector) => page.locator(selector).count()
export const value = (page, code) => page.evaluate(code)
/** Waits until there are this many of something. */
export const waitCount = async (page, selector, n) => void await page.waitForFunction(([s, want]) => document.querySelectorAll(s).length === want, [selector, n])
export const waitText = (page, words) => page.getByText(words).locator('visible=true').first().waitFor()
export const press = (page, key) => page.keyboard.press(key)
export const type = (page, words) => page.keyboard.type(words)
export const click = (page, selector) => page.locator(selector).first().click()
export const clickName = (page, role, name) => page.getByRole(role, { name }).first().click()
export const fillBox = (page, label, words) => page.getByRole('textbox', { name: label }).fill(words)
export const fill = (page, label, words) => page.getByLabel(label).first().fill(words)

/** Writes to somebody by their user id, found in the dialog or not. */
export async function startChat (page, user) {
  await page.getByRole('button', { name: 'New chat' }).first().click()
  await page.getByLabel('Name or user id').fill(user)
  await page.keyboard.press('Enter')
  await box(page).waitFor()
}

export async function newGroup (page, name, ...users) {
  await page.getByRole('button', { name: 'New group' }).click()
  await page.getByLabel('Name of the group').fill(name)
  for (const u of users) {
    await page.getByRole('textbox', { name: 'Members' }).fill(u)
    await page.keyboard.press('Enter')
    await page.waitForFunction(() => document.activeElement?.tagName === 'INPUT' && document.activeElement.value === '')
  }
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  await box(page).waitFor()
}

export async function openChat (page, title) {
  await row(page, title).click()
  await box(page).waitFor()
}

export async function send (page, words) {
  await box(page).fill(words)
  await page.keyboard.press('Enter')
}

export const draft = (page, words) => box(page).fill(words)

/** What the open chat shows: [seq, sender, text] of each message, the server's own lines and what is under way left out. */
const shownMessages = () => [...document.querySelectorAll('article[data-seq]')].map(m => [Number(m.dataset.seq), m.dataset.sender, m.querySelector('.text')?.textContent ?? ''])

export const messages = page => page.evaluate(shownMessages)

/** Waits until the browser has kept the app, so that it opens without the server. */
export const kept = async page => void await page.evaluate(() => navigator.serviceWorker.ready)

/** Waits until the open chat's last message is this text, and nothing is under way. */
export async function waitLast (page, words) {
  await page.waitForFunction(w => [...document.querySelectorAll('article[data-seq] .text')].at(-1)?.textContent === w && !document.querySelector('article.pending'), words)
}

/** Waits until this many messages are under way, and none of them failed. */
export const waitPending = async (page, n) => void await page.waitForFunction(want => document.querySelectorAll('article.pending:not(.failed)').length === want, n)

/** Waits until the last own message has a mark: chat.sent, chat.received or chat.read. */
export const waitMark = async (page, mark) => void await page.waitForFunction(want => [...document.querySelectorAll('article[data-own=true] [data-mark]')].at(-1)?.dataset.mark === want, mark)

/** Waits until a chat of the list has this number of unread messages; "": none. */
export async function waitUnread (page, title, unread) {
  await page.waitForFunction(([name, want]) => {
    const line = [...document.querySelectorAll('button.line')].find(l => l.querySelector('strong')?.textContent === name)
    return !!line && (line.querySelector('[data-unread]')?.textContent ?? '') === want
  }, [title, unread])
}

/** Waits for the connection's state, as the banner has it. */
export const waitState = (page, state) => page.locator(`.banner[data-state=${state}]`).waitFor({ state: 'attached' })

export async function shot (page, path) {
  await page.evaluate(() => document.fonts.ready)
  await page.screenshot({ path, animations: 'disabled', caret: 'hide' })
}

/** What is amiss with the layout: things that are wider than the window, texts that stick out of their boxes, buttons that overlap. */
export function amiss (page) {
  return page.evaluate(() => {
    const found = []
    const seen = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getBoundingClientRect().width > 0
    const what = e => `<${e.tagName.toLowerCase()} class="${e.getAttribute('class') ?? ''}"> ${(e.getAttribute('aria-label') ?? e.textContent ?? '').trim().slice(0, 40)}`
    if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} px wide`)
    const top = document.querySelector('dialog[open]') ?? document.body
    const controls = [...top.querySelectorAll('button, input:not([tabindex="-1"]), textarea, select, a')].filter(seen)
    for (const e of controls) {
      const r = e.getBoundingClientRect()
      if (r.right > innerWidth + 1 || r.left < -1) found.push(`sticks out: ${what(e)}`)
      if (!(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.querySelector('img[alt]:not([alt=""])'))) found.push(`has no name: ${what(e)}`)
    }
    for (const [i, a] of controls.entries()) {
      const r = a.getBoundingClientRect()
      for (const b of controls.slice(i + 1)) {
        if (a.contains(b) || b.contains(a)) continue
        const s = b.getBoundingClientRect()
        const x = Math.min(r.right, s.right) - Math.max(r.left, s.left)
        const y = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top)
        const scrolls = e => {
          while (e && getComputedStyle(e).overflowY === 'visible') e = e.parentElement
          return e
        }
        if (x > 2 && y > 2 && scrolls(a.parentElement) === scrolls(b.parentElement)) found.push(`overlap: ${what(a)} and ${what(b)}`)
      }
    }
    for (const e of top.querySelectorAll('.inside, .bubble, .log, .body, .column, .composer, header, .card')) {
      if (seen(e) && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'auto') found.push(`${e.scrollWidth} px in ${e.clientWidth}: ${what(e)}`)
    }
    return found
  })
}

export const focus = (page, selector) => page.locator(selector).first().focus()
export const waitFocus = async (page, selector) => void await page.waitForFunction(s => document.activeElement?.matches(s), selector)
export const clickSeq = (page, seq, selector) => page.locator(`[data-seq="${seq}"] ${selector}`).click()

/** Waits until a message is in sight. */
export const inSight = async (page, seq) => void await page.waitForFunction(s => {
  const log = document.querySelector('[role=log]').getBoundingClientRect()
  const row = document.querySelector(`[data-seq="${s}"]`)?.getBoundingClientRect()
  return row && row.top >= log.top - 1 && row.bottom <= log.bottom + 1
}, seq)

export const scrollEnd = page => page.evaluate(() => {
  const log = document.querySelector('[role=log]')
  log.scrollTop = log.scrollHeight
})

/** The first message that is wholly in sight, and where it stands. */
export const firstInSight = page => page.evaluate(() => {
  const top = document.querySelector('[role=log]').getBoundingClientRect().top
  const row = [...document.querySelectorAll('[data-seq]')].find(r => r.getBoundingClientRect().top >= top)
  return `${row.dataset.seq} at ${Math.round(row.getBoundingClientRect().top - top)}`
})

/** Scrolls up to the beginning as a wheel does, and returns how often what was in sight stood elsewhere after a step than that step takes. */
export const scrollToBeginning = page => page.evaluate(async () => {
  const log = document.querySelector('[role=log]')
  const frame = () => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))
  const jumps = []
  const step = 250
  for (let n = 0; n < 2000; n++) {
    if (log.scrollTop === 0 && !document.querySelector('.column .note')?.textContent.includes('Loading')) break
    const top = log.getBoundingClientRect().top
    const row = [...document.querySelectorAll('[data-seq]')].find(r => r.getBoundingClientRect().bottom > top)
    const before = row.getBoundingClientRect().top
    const room = log.scrollTop
    log.scrollTop -= step
    await frame()
    const went = row.getBoundingClientRect().top - before
    // Where there was less room than a step, it went as far as there was, or further if more came above meanwhile.
    if (row.isConnected && room >= step && Math.abs(went - step) > 2) jumps.push(`${row.dataset.seq}: ${Math.round(went)}`)
  }
  return { jumps }
})
