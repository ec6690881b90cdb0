// The wire's messages as the application's.

import type { Announcement, Content, Conversation, Message, Profile, Room } from "./api.js";
import { GoChatError } from "./errors.js";
import { fromHex, messageTime, toHex, toUuid, validClientMsgId, validId, conversationKind } from "./ids.js";
import { Code } from "./wire/codes.gen.js";
import { encode, utf8, type Init } from "./wire/proto.js";
import {
  Encryption as EncryptionSchema, type Broadcast, type ConversationState, type Encryption, type Message as WireMessage, type Profile as WireProfile, type Room as WireRoom, type Send,
} from "./wire/wire.gen.js";

/** The other of two users, "" if users isn't me and another. */
export function peerOf(me: string, users: string[]): string {
  if (users.length !== 2) return "";
  return users[0] === me ? users[1]! : users[1] === me ? users[0]! : "";
}

/** A conversation as the server says it stands. */
export function conversationOf(me: string, s: ConversationState): Conversation {
  return {
    id: toHex(s.conversationId), users: s.users, peer: peerOf(me, s.users), name: s.name, avatar: s.avatar, members: s.members, role: s.role, nickname: s.nickname,
    lastSeq: s.lastSeq, firstSeq: s.firstSeq, readSeq: s.readSeq, recvSeq: s.recvSeq, unread: s.unread, mentions: s.mentions, lastTime: Number(s.lastTime),
    preview: s.preview?.text ?? "", previewFrom: s.preview?.senderId ?? "", previewType: s.preview?.msgType ?? 0, peerReadSeq: s.peerReadSeq, peerRecvSeq: s.peerRecvSeq,
    joinedSeq: s.joinedSeq, leftSeq: s.leftSeq, pinned: s.pinned, muted: s.muted, hidden: s.hidden, settingsVersion: s.settingsVersion,
  };
}

/** A stored message. Of the optional members of its content those are there that say something. */
export function messageOf(w: WireMessage, conversation: string, me: string, peer: string): Message {
  return {
    conversation, peer, seq: w.seq, id: w.messageId.toString(), sender: w.senderId, clientMsgId: validClientMsgId(w.clientMsgId) ? toUuid(w.clientMsgId) : "",
    own: w.senderId === me, time: messageTime(w.messageId), ...contentOf(w),
  };
}

/** What a sender said, of a message or of its SEND. */
export function contentOf(w: Omit<Send, "conversationId" | "toUserId" | "seenSeq">): Content & { type: number; text: string } {
  const m: Content & { type: number; text: string } = { type: w.msgType, text: w.content };
  if (w.data.length > 0) m.data = w.data;
  if (w.mentions.length > 0) m.mentions = w.mentions;
  if (w.mentionAll) m.mentionAll = true;
  if (w.replyToSeq) m.replyToSeq = w.replyToSeq;
  if (w.threadSeq) m.threadSeq = w.threadSeq;
  if (w.expiresAt) m.expiresAt = Number(w.expiresAt);
  if (w.noCount) m.noCount = true;
  if (w.noPush) m.noPush = true;
  if (w.originDevice) m.originDevice = w.originDevice;
  if (w.ext.length > 0) m.ext = w.ext;
  if (w.encryption) m.encryption = w.encryption;
  return m;
}

/** A message as it is in the timeline once its SEND was stored there. */
export const storedSend = (s: Send, seq: bigint, messageId: bigint, sender: string): WireMessage => ({ ...s, seq, messageId, senderId: sender, lastChangeSeq: 0n, targetSeq: 0n });

export const profileOf = (w: WireProfile): Profile => ({ user: w.userId, name: w.name, avatar: w.avatar, ext: w.ext, version: w.version });

/** ROOM's answer. */
export const roomOf = (w: WireRoom): Room => ({
  conversation: toHex(w.conversationId), name: w.name, title: w.title, count: w.count, slowSeconds: w.slowSeconds, firstSeq: w.firstSeq, lastSeq: w.lastSeq,
  moderator: w.role === 2, mutedUntil: Number(w.mutedUntil), moderators: w.moderators, createdBy: w.createdBy, created: Number(w.createdTime),
});

export const announcementOf = (w: Broadcast): Announcement => ({ id: w.id, title: w.title, text: w.text, ext: w.ext, time: Number(w.time) });

/** What a message may be: of CONNACK, or what no server goes beyond. */
export interface ContentLimits {
  maxContent: number;
  maxExt: number;
  maxMentions: number;
}

export const anySize: ContentLimits = { maxContent: 64 << 10, maxExt: 64 << 10, maxMentions: 1 << 12 };

/** The SEND of a content, without target and id. */
export function sendOf(c: Content): Init<Send> {
  return {
    msgType: c.type || 1, content: c.text ?? "", data: c.data, mentions: c.mentions, mentionAll: c.mentionAll, replyToSeq: c.replyToSeq, threadSeq: c.threadSeq,
    expiresAt: c.expiresAt ? BigInt(Math.floor(c.expiresAt)) : 0n, noCount: c.noCount, noPush: c.noPush, originDevice: c.originDevice, ext: c.ext,
    encryption: c.encryption as Init<Encryption>,
  };
}

const refuse = (code: number, why: string): never => {
  throw new GoChatError(code, why);
};

/** Throws the GoChatError with which a server would refuse this SEND. */
export function checkSend(s: Init<Send>, limits: ContentLimits): void {
  const lone = (text: string) => !(text as unknown as { isWellFormed?: () => boolean }).isWellFormed ? /\p{Cs}/u.test(text) : !(text as unknown as { isWellFormed(): boolean }).isWellFormed();
  if (lone(s.content ?? "")) refuse(Code.InvalidUtf8, "the text has half a surrogate pair");
  for (const u of s.mentions ?? []) if (!validId(u)) refuse(Code.BadRequest, "a mention isn't a user id");
  const conversation = s.conversationId?.length ?? 0;
  if (conversation > 0 === !!s.toUserId) refuse(Code.BadRequest, "a message goes either to a conversation or to a user");
  if (s.toUserId && !validId(s.toUserId)) refuse(Code.BadRequest, "the user isn't a user id");
  if (conversation > 0 && !conversationKind(toHex(s.conversationId!))) refuse(Code.BadRequest, "the conversation isn't a conversation id");
  if (!s.clientMsgId || !validClientMsgId(s.clientMsgId)) refuse(Code.BadRequest, "the id isn't a UUIDv7");
  const type = s.msgType ?? 0;
  if (!Number.isInteger(type) || type < 1 || type > 0xffffffff || (type >= 64 && type < 1000)) refuse(Code.BadRequest, `type ${type} isn't a client's`);
  const content = utf8(s.content ?? "").length;
  const data = s.data?.length ?? 0;
  const encryption = s.encryption ? encode(EncryptionSchema, s.encryption).length : 0;
  if (content === 0 && data === 0 && type < 64) refuse(Code.BadRequest, "the message is empty");
  if (content + data + encryption > limits.maxContent) refuse(Code.ContentTooLarge, `${content + data + encryption} bytes of content, at most ${limits.maxContent}`);
  if ((s.ext?.length ?? 0) > limits.maxExt) refuse(Code.ContentTooLarge, `${s.ext!.length} bytes of ext, at most ${limits.maxExt}`);
  if ((s.mentions?.length ?? 0) > limits.maxMentions) refuse(Code.BadRequest, `${s.mentions!.length} mentions, at most ${limits.maxMentions}`);
  if ((s.expiresAt ?? 0n) > 253402300799999n) refuse(Code.BadRequest, "expiresAt is beyond the year 9999");
}

/** A conversation id as the wire has it; a GoChatError if it is none. */
export function conversationBytes(conversation: string): Uint8Array {
  if (!conversationKind(conversation)) refuse(Code.BadRequest, `${String(conversation).slice(0, 80)} isn't a conversation id`);
  return fromHex(conversation);
}
