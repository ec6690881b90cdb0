// A client against a server that says what a test wants.

import { after } from "node:test";

import { Client, type AnyEvent, type Config } from "../src/index.js";
import { Fake } from "./fake.js";

/** They are closed when the tests of the file are over. */
export const clients: Client[] = [];
after(() => Promise.all(clients.map((c) => c.close())));

export interface Actor {
  fake: Fake;
  client: Client;
  events: AnyEvent[];
  /** What the application was told of messages. */
  texts(): string[];
  until(holds: () => boolean): Promise<void>;
}

/** A client that is started, and notes what it tells. */
export async function actor({ fake = new Fake(), ...more }: Partial<Config> & { fake?: Fake } = {}): Promise<Actor> {
  const client = await Client.open({ url: "fake", token: "token", device: "device", transport: fake.transport, minBackoffMs: 1, maxBackoffMs: 2, gapWaitMs: 1, ackIntervalMs: 1, backlog: Infinity, ...more });
  clients.push(client);
  const events: AnyEvent[] = [];
  let woken: (() => void) | undefined;
  void (async () => {
    for await (const e of client.events()) {
      events.push(e);
      woken?.();
    }
  })();
  client.start();
  return {
    fake, client, events,
    texts: () => events.flatMap((e) => (e.type === "message" ? [e.data.text] : [])),
    until: async (holds) => {
      while (!holds()) await new Promise<void>((resolve) => (woken = resolve));
    },
  };
}
