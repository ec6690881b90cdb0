// GoChat's client for browsers and Node. See README.md for a guide.

export * from "./api.js";
export { Account, localGrants, type Credentials, type Grant, type GrantStore } from "./auth.js";
export { Chat, type CallOptions } from "./chat.js";
export { Client, type Taps } from "./client.js";
export type { Config } from "./config.js";
export { Draft } from "./draft.js";
export { ClosedError, Code, ConnectionError, GoChatError, StoppedError, TimeoutError } from "./errors.js";
export { ConversationKind, conversationKind, directConversation, groupConversation, newDeviceId, roomConversation, selfConversation, validId } from "./ids.js";
export { ConversationList, groupChangeOf, membershipOf, nicknameOf, unreadCap, type ListedState } from "./list.js";
export { IndexedDBStore, type IndexedDBOptions } from "./store/indexeddb.js";
export { MemoryStore } from "./store/memory.js";
export type { Change, Cursor, Outgoing, SessionState, State, Store } from "./store/store.js";
export { open, type SharedConfig, type TabsOptions } from "./tabs/shared.js";
export { orElse, serverSentEvents } from "./transport/events.js";
export type { Connection, ConnectionHandler, Transport } from "./transport/transport.js";
export { subprotocol, webSocket, type WebSocketConstructor, type WebSocketLike } from "./transport/websocket.js";
export type { Class, CodeInfo, Scope } from "./wire/codes.gen.js";
export { registry } from "./wire/codes.gen.js";
export { DeviceKind, methods, type Method } from "./wire/wire.gen.js";
