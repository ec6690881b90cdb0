// What a client can do, against a real server.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Account, Client, DeviceKind, GoChatError, membershipOf, Moderation, Role, roomConversation, type AnyEvent, type EventName, type Message } from "../../src/index.js";
import { FileStore, tcp } from "../../src/node/index.js";
import { Server } from "./server.js";

let server: Server;
let folder: string;
before(async () => {
  server = await Server.start({ GOCHAT_ROOMS__CREATE: "anyone" });
  folder = await mkdtemp(join(tmpdir(), "gochat-ts-stores-"));
});
after(async () => {
  await server.remove();
  await rm(folder, { recursive: true, force: true });
});

const password = "correct horse battery";

async function signedIn(name: string, device = `${name}-1`): Promise<Account> {
  const a = await Account.open(`http://${server.http}`);
  const who = { name, password, device, kind: DeviceKind.Desktop };
  await a.register(who).catch(() => a.login(who));
  return a;
}

async function connected(a: Account, path?: string): Promise<Client> {
  const c = await Client.open({
    url: server.tcp, transport: tcp(), token: a.token, device: a.grant!.device, store: path ? await FileStore.open(path) : undefined, minBackoffMs: 20, maxBackoffMs: 100,
  });
  c.start();
  await c.connected();
  return c;
}

/** The first event of a name for which the condition holds, from now on. */
async function event<K extends EventName>(c: Client, name: K, holds: (e: Extract<AnyEvent, { type: K }>["data"]) => boolean): Promise<Extract<AnyEvent, { type: K }>["data"]> {
  for await (const e of c.events(name)) if (holds(e.data as never)) return e.data as never;
  throw new Error("the client ended before");
}

test("accounts: wrong passwords, tokens that are refreshed, signing out", async () => {
  const a = await signedIn("ann");
  const b = await Account.open(`http://${server.http}`);
  await assert.rejects(b.login({ name: "ann", password: "wrong password" }), (e) => e instanceof GoChatError && e.name === "bad_credentials" && e.status === 401);
  await assert.rejects(b.register({ name: "ann", password }), { name: "name_taken" });
  const before = a.grant!.refreshToken;
  await a.token({ expired: true });
  assert.notEqual(a.grant!.refreshToken, before);
  const c = await connected(a);
  const stopped = event(c, "stopped", () => true);
  await a.logout(true);
  assert.equal(((await stopped).error as GoChatError).name, "session_revoked");
  await assert.rejects(a.token(), { name: "unauthenticated" });
  await c.close();
});

test("groups, history both ways, mentions, settings, profiles, blocks, devices, signals", async () => {
  const [a, b] = [await connected(await signedIn("alice")), await connected(await signedIn("bob"))];
  const brought = event(b, "message", (m: Message) => membershipOf(m)?.do === "create" || membershipOf(m)?.do === "add");
  const g = await a.createGroup({ name: "Lunch", users: ["bob", "nobody-at-all"] });
  assert.equal(g.refused.length, 1);
  assert.equal((await brought).conversation, g.conversation);
  const group = { conversation: g.conversation };
  const last = event(b, "message", (m: Message) => m.text === "30");
  let head = 0n;
  for (let i = 1; i <= 30; i++) head = (await a.deliver(group, i === 7 ? { text: "7", mentions: ["bob"] } : String(i))).seq;
  await last;
  assert.equal(b.conversations.get(g.conversation)!.unread, 30);
  assert.equal(b.conversations.get(g.conversation)!.mentions, 1);
  assert.equal((await b.mentions(g.conversation)).seqs.length, 1);

  const back: string[] = [];
  for await (const page of b.historyPages(g.conversation, 0n, 8)) back.unshift(...page.map((m) => m.text));
  assert.deepEqual(back.slice(-30), Array.from({ length: 30 }, (_, i) => String(i + 1)));
  const page = await b.historyAfter(g.conversation, head - 10n, 4);
  assert.deepEqual([page.messages.map((m) => m.text), page.more], [["21", "22", "23", "24"], true]);
  assert.equal((await b.historyAfter(g.conversation, head)).messages.length, 0);

  assert.deepEqual(await b.markRead(g.conversation, head), { readSeq: head, unread: 0 });
  await a.setRole(g.conversation, "bob", Role.Admin);
  await b.updateGroup(g.conversation, { name: "Dinner" });
  assert.equal((await a.group(g.conversation)).name, "Dinner");
  const members = [];
  for await (const m of a.allMembers(g.conversation)) members.push([m.user, m.role]);
  assert.deepEqual(members, [["alice", Role.Owner], ["bob", Role.Admin]]);
  assert.equal((await b.mute(g.conversation)).muted, true);
  assert.equal((await b.hide(g.conversation)).hidden, true);
  assert.equal(b.conversations.get(g.conversation)!.hidden, true);

  await a.openDirect("bob");
  const renamed = event(b, "profile", (p) => p.user === "alice");
  await a.setProfile({ name: "Alice ✓" });
  assert.equal((await renamed).name, "Alice ✓");
  assert.equal((await b.profiles(["alice", "bob"])).get("alice")!.name, "Alice ✓");
  const typing = event(b, "typing", (t) => t.on);
  const draft = event(b, "draft", (d) => d.text === "hello, world");
  a.typing({ user: "bob" });
  const d = a.draft({ user: "bob" });
  d.write("hello");
  d.write(", world");
  assert.equal((await typing).user, "alice");
  await draft;
  const read = event(a, "cursors", (x) => !x.own && x.readSeq === 1n);
  await a.deliver({ user: "bob" }, "hello, world");
  await b.markRead(b.direct("alice"), 1n);
  await read;
  assert.equal(a.conversations.get(a.direct("bob"))!.peerReadSeq, 1n);
  await b.block("alice");
  await assert.rejects(a.deliver({ user: "bob" }, "hey"), { name: "forbidden" });
  assert.deepEqual(await b.blocked(), ["alice"]);
  assert.deepEqual((await a.devices()).map((x) => [x.id, x.current, x.online]), [["alice-1", true, true]]);
  await Promise.all([a.close(), b.close()]);
});

test("rooms: coming in, what is said, who is there, coming back, being put out", async () => {
  const [ann, ben] = [await connected(await signedIn("ann-in-rooms")), await connected(await signedIn("ben-in-rooms"))];
  const room = roomConversation("lobby");
  await assert.rejects(ben.joinRoom(room), { name: "no_such_conversation" });
  const made = await ann.createRoom({ name: "lobby", title: "The lobby" });
  assert.deepEqual([made.conversation, made.moderator, made.moderators], [room, true, ["ann-in-rooms"]]);
  await ann.joinRoom(room);
  const two = event(ann, "room", (r) => r.count === 2);
  assert.equal((await ben.joinRoom(room)).title, "The lobby");
  await two;
  assert.deepEqual((await ann.roomMembers(room)).users, ["ann-in-rooms", "ben-in-rooms"]);

  const mine = event(ben, "message", (m: Message) => m.text === "hello");
  const hers = event(ann, "message", (m: Message) => m.text === "hello");
  assert.equal((await ben.deliver({ conversation: room }, "hello")).seq, 1n);
  assert.deepEqual([(await mine).own, (await hers).own, (await hers).sender, (await hers).conversation], [true, false, "ben-in-rooms", room]);
  assert.deepEqual((await ann.history(room)).messages.map((m) => m.text), ["hello"]);
  assert.deepEqual([ann.conversations.get(room), ben.conversations.get(room), await ann.cached(room)], [undefined, undefined, []]);

  // Both enter again by themselves. Nothing is missed: nobody was there to say anything.
  const back = [event(ann, "room", () => true), event(ben, "room", () => true)];
  await server.down();
  await server.up();
  await Promise.all(back);
  const again = event(ben, "message", (m: Message) => m.text === "again");
  await ann.deliver({ conversation: room }, "again");
  assert.equal((await again).seq, 2n);

  assert.equal((await ann.updateRoom(room, { slowSeconds: 60 })).slowSeconds, 60);
  await ben.deliver({ conversation: room }, "once");
  await assert.rejects(ben.deliver({ conversation: room }, "and at once again"), (e) => e instanceof GoChatError && e.name === "slow_mode" && e.retryAfterMs > 0);
  const out = event(ben, "roomLeft", (r) => r.conversation === room);
  await ann.moderate(room, "ben-in-rooms", Moderation.Ban);
  assert.equal((await out).error?.name, "banned_here");
  await assert.rejects(ben.joinRoom(room), { name: "banned_here" });
  assert.deepEqual([ann.rooms, ben.rooms], [[room], []]);
  await ann.leaveRoom(room);
  assert.deepEqual(ann.rooms, []);
  await Promise.all([ann.close(), ben.close()]);
});

test("a client in a file goes on where it was, though process and server were gone", async () => {
  const [carl, dora] = [await signedIn("carl"), await signedIn("dora")];
  const path = join(folder, "carl");
  let c = await connected(carl, path);
  const d = await connected(dora);
  const got: string[] = [];
  const listen = (x: Client) => x.on("message", (m) => void got.push(m.text));
  listen(c);
  const first = event(c, "message", (m: Message) => m.text === "1");
  await d.deliver({ user: "carl" }, "1");
  await first;
  await server.down();
  const r = await c.send({ user: "dora" }, "written while the server was away");
  assert.deepEqual((await c.outbox()).map((w) => w.content.text), ["written while the server was away"]);
  await c.close();
  await server.up();
  await d.deliver({ user: "carl" }, "2");
  c = await Client.open({ url: server.tcp, transport: tcp(), token: carl.token, device: carl.grant!.device, store: await FileStore.open(path), minBackoffMs: 20, maxBackoffMs: 100 });
  listen(c);
  const receipt = c.receipt(r.id);
  const end = event(c, "message", (m: Message) => m.clientMsgId === r.id);
  c.start();
  const ack = await receipt!;
  await end;
  assert.equal(ack.seq, 3n);
  assert.deepEqual(got, ["1", "2", "written while the server was away"]);
  assert.deepEqual((await c.cached(c.direct("dora"))).map((m) => m.text).slice(0, 2), ["1", "2"]);
  await Promise.all([c.close(), d.close()]);
});

test("the example of twenty lines", async () => {
  const eve = await connected(await signedIn("eve"));
  const hello = event(eve, "message", (m: Message) => m.sender === "echo" && m.text === "hello");
  const example = fileURLToPath(new URL("../../examples/echo.js", import.meta.url));
  const p = spawn(process.execPath, ["--experimental-websocket", example, server.http, "echo", "eve"], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    const m = await hello;
    const echoed = event(eve, "message", (x: Message) => x.text === "you said: are you there?");
    await eve.deliver({ conversation: m.conversation }, "are you there?");
    await echoed;
  } finally {
    p.kill();
  }
  await eve.close();
});
