import assert from "node:assert/strict";
import { after, test } from "node:test";
import { close, load } from "./app.mjs";

after(close);
const words = await load("state/words");
const i18n = await load("i18n/index");
const { en } = await load("i18n/en");
const { zh } = await load("i18n/zh");
const { Thread, pending } = await load("state/thread");

test("texts are cut into pieces, of which addresses are links", () => {
  for (const [text, want] of [
    ["hello", ["hello"]],
    ["", []],
    ["see https://example.com/a?b=c.", ["see ", "<https://example.com/a?b=c>", "."]],
    ["(http://example.com/x), https://example.org。", ["(", "<http://example.com/x>", "), ", "<https://example.org>", "。"]],
    ["javascript:alert(1) data:text/html,x ftp://example.com", ["javascript:alert(1) data:text/html,x ftp://example.com"]],
    [`https://example.com/"onload="x`, ["<https://example.com/>", `"onload="x`]],
    ["https://example.com/<b>", ["<https://example.com/>", "<b>"]],
    ["https://", ["https://"]],
  ]) {
    const pieces = words.pieces(text);
    assert.deepEqual(pieces.map((p) => (p.href ? `<${p.href}>` : p.text)), want, text);
    assert.equal(pieces.map((p) => p.text).join(""), text);
  }
});

test("addresses of pictures are https, or the server's own", () => {
  for (const [url, want] of [
    ["https://example.com/a.png", "https://example.com/a.png"], ["/icon.svg", "https://chat.example.com/icon.svg"], ["http://example.com/a.png", ""], ["javascript:alert(1)", ""],
    [" JavaScript:alert(1)", ""], ["data:image/svg+xml,<svg/>", ""], ["blob:https://chat.example.com/1", ""], ["//example.com/a", "https://example.com/a"], ["", ""], [7, ""], [null, ""], ["https://[", ""],
  ]) assert.equal(words.safeUrl(url), want, String(url));
});

const message = (seq, more = {}) => ({
  conversation: "c", peer: "", seq: BigInt(seq), id: String(seq), sender: "bob", clientMsgId: `id ${seq}`, own: false, time: 1_700_000_000_000 + seq, type: 1, text: `text ${seq}`, ...more,
});

test("who is called in a text", () => {
  for (const [text, want] of [
    ["@alice can you?", ["alice"]], ["see you, @bob, @bob and @carol!", ["bob", "carol"]], ["mail me: a@example.com", []], ["@", []], ["@\u674e\u96f7\uff0c\u4f60\u597d\u3002", ["\u674e\u96f7"]],
    ["@" + "\u4f60".repeat(22), []], ["@" + "x".repeat(65), []], ["@" + "x".repeat(64), ["x".repeat(64)]], // longer than any id: words, then
    [Array.from({ length: 60 }, (_, i) => `@u${i}`).join(" "), Array.from({ length: 50 }, (_, i) => `u${i}`)],
  ]) assert.deepEqual(words.mentionsIn(text), want, text);
});

test("messages in a line", () => {
  assert.equal(words.preview(1, "two\n  lines"), "two lines");
  assert.equal(words.preview(2, ""), "Photo");
  assert.equal(words.preview(1000, "{}"), "A message this app can't show");
  const line = (type, text) => words.systemLine(message(1, { type, text: JSON.stringify(text) }));
  assert.equal(line(64, { do: "add", users: ["carol"], count: 1 }), "bob added carol");
  assert.equal(line(64, { do: "add", users: ["a", "b", "c", "d"], count: 20 }), "bob added a, b, c and 17 others");
  assert.equal(line(64, { do: "role", users: ["carol"], role: "admin" }), "bob made carol admin");
  assert.equal(line(64, { do: "whatever", users: [] }), "A message this app can't show");
  assert.equal(line(65, { name: "x" }), "bob named the group “x”");
  assert.equal(line(65, { avatar: "x" }), "bob changed the group");
  assert.equal(line(66, { nickname: "" }), "bob uses their own name here again");
  assert.equal(words.systemLine(message(1, { type: 64, text: "no JSON" })), "A message this app can't show");
  const media = (text) => words.mediaOf(message(1, { type: 2, text }));
  assert.deepEqual(media(`{"url":"javascript:1","name":7}`), { label: "Photo", url: "", thumbnail: "", name: "", image: true });
  assert.deepEqual(media("null"), { label: "Photo", url: "", thumbnail: "", name: "", image: true });
  assert.equal(words.mediaOf(message(1)), undefined);
});

test("all languages say the same things", () => {
  const blanks = (s) => [...s.matchAll(/\{\w+\}/g)].map(String).sort();
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
  for (const k of Object.keys(en)) assert.deepEqual(blanks(zh[k]), blanks(en[k]), k);
});

test("names can't turn what stands around them", () => {
  assert.equal(i18n.t("sys.join", { who: "bob" }), "bob joined");
  assert.equal(i18n.t("sys.join", { who: "\u202Ebob" }), "\u2068\u202Ebob\u2069 joined");
  assert.equal(i18n.errorWords("name_taken"), "This name is taken.");
  assert.equal(i18n.errorWords("bad_request"), undefined);
});

/** A chat of which the cache has the seqs from..to, the server 1..head. */
function chatOf({ head, cached = [], readSeq = 0n, unread = 0 }) {
  const asked = [];
  const chat = {
    asked,
    down: false,
    marks: [],
    known: head > 0 ? { lastSeq: BigInt(head), readSeq, unread } : undefined,
    conversations: { get: () => chat.known },
    cached: async () => cached.map((n) => message(n)),
    history: async (_, before, limit) => {
      asked.push(Number(before));
      if (chat.down) throw new Error("down");
      const end = before ? Number(before) - 1 : head;
      const start = Math.max(end - limit + 1, 1);
      return { messages: Array.from({ length: Math.max(end - start + 1, 0) }, (_, i) => message(start + i)), more: start > 1 };
    },
    markRead: async (_, seq) => void chat.marks.push(Number(seq)),
    send: async () => ({ id: "mine", stored: new Promise(() => {}) }),
  };
  return chat;
}
const seqs = (t) => t.messages.map((m) => Number(m.seq));
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const threadOf = async (chat) => {
  const t = new Thread(chat, "c", { conversation: "c" });
  await t.load();
  return t;
};

test("a thread begins with what the browser has, and fills it up", async () => {
  const chat = chatOf({ head: 120, cached: [60, ...range(101, 120)], readSeq: 120n });
  const t = await threadOf(chat);
  assert.deepEqual(chat.asked, [101]); // 60 is beyond a hole
  assert.deepEqual(seqs(t), range(51, 120));
  await Promise.all([t.older(), t.older()]);
  assert.deepEqual(seqs(t), range(1, 120));
  assert.equal(t.more.value, false);
  await t.older();
  assert.deepEqual(chat.asked, [101, 51]);
});

test("a thread goes back to what is unread, and to what is asked for", async () => {
  const t = await threadOf(chatOf({ head: 400, readSeq: 280n }));
  assert.deepEqual(seqs(t), range(251, 400));
  assert.equal(t.opened.value, 280n);
  assert.equal((await t.reach(77n)).text, "text 77");
  assert.equal(seqs(t)[0], 51);
  assert.equal(await t.reach(0n), undefined);
});

test("a thread of which nothing was read begins where it begins", async () => {
  const t = await threadOf(chatOf({ head: 120, unread: 120 }));
  assert.deepEqual([t.opened.value, seqs(t)], [0n, range(1, 120)]);
  const brought = await threadOf(chatOf({ head: 120 })); // none of it is new
  assert.deepEqual([brought.opened.value, seqs(brought)], [undefined, range(71, 120)]);
  const empty = chatOf({ head: 0 });
  const seen = await threadOf(empty);
  empty.known = { lastSeq: 1n, readSeq: 0n, unread: 1 };
  await seen.load();
  assert.equal(seen.opened.value, undefined);
});

test("a thread is opened before there is anything in it", async () => {
  const chat = chatOf({ head: 0 });
  const t = await threadOf(chat);
  assert.deepEqual([seqs(t), t.more.value], [[], false]);
  t.add(message(1));
  assert.equal(t.more.value, false);
  const late = await threadOf(chatOf({ head: 0 }));
  late.add(message(9)); // of a conversation that this device hadn't heard of
  assert.equal(late.more.value, true);
});

test("messages are taken in once and in order; far above the end they are let go of", async () => {
  const t = await threadOf(chatOf({ head: 3, cached: [1, 2, 3], readSeq: 3n }));
  for (const n of [3, 4, 4, 2, 5]) t.add(message(n));
  assert.deepEqual(seqs(t), [1, 2, 3, 4, 5]);
  for (const n of range(6, 5000)) {
    t.add(message(n));
    t.trim();
    assert.ok(t.messages.length <= 600);
  }
  assert.equal(t.more.value, true);
  await t.older();
  assert.deepEqual(seqs(t), range(seqs(t)[0], 5000));
});

test("a failure is told, and the next try goes on", async () => {
  const chat = chatOf({ head: 100, cached: range(51, 100), readSeq: 100n });
  const t = await threadOf(chat);
  chat.down = true;
  await t.older();
  assert.deepEqual([t.failed.value, t.loading.value, t.more.value], [true, false, true]);
  assert.equal(await t.reach(1n), undefined);
  chat.down = false;
  await t.older();
  assert.deepEqual([t.failed.value, seqs(t)[0]], [false, 1]);
});

test("what is seen is marked once, and only by somebody who looks", async () => {
  const chat = chatOf({ head: 5, cached: range(1, 5), readSeq: 2n });
  const t = await threadOf(chat);
  for (const n of [2n, 4n, 4n, 3n]) t.read(n);
  document.visibilityState = "hidden";
  t.read(5n);
  document.visibilityState = "visible";
  assert.deepEqual(chat.marks, [4]);
  t.read(5n);
  assert.deepEqual(chat.marks, [4, 5]);
});

test("what is under way is shown, and sent anew when it was refused", async () => {
  const t = await threadOf(chatOf({ head: 0 }));
  await t.send("hello");
  assert.deepEqual(t.waiting.value.map((p) => [p.id, p.text, p.failed]), [["mine", "hello", ""]]);
  pending[0].failed = "forbidden";
  pending[0].id = "refused";
  await t.retry(pending[0]);
  assert.deepEqual(pending.map((p) => [p.id, p.failed]), [["mine", ""]]);
  t.discard(pending[0]);
  assert.deepEqual(pending, []);
});
