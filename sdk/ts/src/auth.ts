// Signing in with the server's own accounts. Where tokens come from an issuer of one's own none of this is needed.

import { ConnectionError, GoChatError } from "./errors.js";
import { Code } from "./wire/codes.gen.js";

/** What signing in gives. Times are Unix milliseconds. */
export interface Grant {
  user: string;
  device: string;
  accessToken: string;
  accessExpires: number;
  refreshToken: string;
  refreshExpires: number;
}

export interface Credentials {
  name: string;
  /** 8 to 256 bytes. */
  password: string;
  /** The server makes one if it is left out. */
  device?: string;
  /** One of DeviceKind. */
  kind?: number;
}

/** Keeps the grant of this installation. What was saved must be there after a crash. */
export interface GrantStore {
  load(): Grant | undefined | Promise<Grant | undefined>;
  /** undefined: forget it */
  save(g: Grant | undefined): void | Promise<void>;
}

/** A GrantStore in the browser's local storage. */
export function localGrants(key = "gochat.grant"): GrantStore {
  return {
    load() {
      try {
        return JSON.parse(localStorage.getItem(key) ?? "null") ?? undefined;
      } catch {
        return undefined;
      }
    },
    save: (g) => (g ? localStorage.setItem(key, JSON.stringify(g)) : localStorage.removeItem(key)),
  };
}

const memory = (): GrantStore => {
  let grant: Grant | undefined;
  return { load: () => grant, save: (g) => void (grant = g) };
};

/** How long before its end an access token isn't used any more. */
const margin = 30_000;

/**
 * This installation's sign-in. Give its `token` to the client's Config. Calls reject with a GoChatError if the server refuses,
 * with a ConnectionError if it can't be reached.
 */
export class Account {
  private refreshing: Promise<Grant> | undefined;

  private constructor(
    private readonly base: string,
    private readonly store: GrantStore,
    private current: Grant | undefined,
  ) {}

  /**
   * @param base the server's HTTP address: `https://chat.example.com`; "" in a page that it serves
   * @param store default: memory, which forgets
   */
  static async open(base: string, store: GrantStore = memory()): Promise<Account> {
    return new Account(base.replace(/\/$/, ""), store, await store.load());
  }

  /** Who is signed in; undefined: nobody. */
  get grant(): Grant | undefined {
    return this.current;
  }

  /** Makes an account, and signs in on this device. */
  register(c: Credentials): Promise<Grant> {
    return this.sign("register", c);
  }

  login(c: Credentials): Promise<Grant> {
    return this.sign("login", c);
  }

  private async sign(route: string, c: Credentials): Promise<Grant> {
    return this.keep(await this.post(route, { name: c.name, password: c.password, device_id: c.device, device_kind: c.kind }));
  }

  /** Signs this device out, or all of the user's. The grant is forgotten though the server can't be reached. */
  async logout(all = false): Promise<void> {
    const g = this.current;
    this.current = undefined;
    await this.store.save(undefined);
    if (g) await this.post("logout", { refresh_token: g.refreshToken, all });
  }

  /** Signs the user's other devices out. */
  async changePassword(old: string, next: string): Promise<void> {
    await this.post("password", { old_password: old, new_password: next }, await this.token());
  }

  /** An access token that is good now: for Config.token, and for the HTTP API. */
  readonly token = async (hint?: { expired: boolean }): Promise<string> => {
    const g = this.current;
    if (!g) throw new GoChatError(Code.Unauthenticated, "nobody is signed in");
    if (!hint?.expired && Date.now() < g.accessExpires - margin) return g.accessToken;
    return (await (this.refreshing ??= this.refresh().finally(() => (this.refreshing = undefined)))).accessToken;
  };

  private async refresh(): Promise<Grant> {
    const before = (await this.store.load()) ?? this.current!; // another page may have refreshed it
    if (before.refreshToken !== this.current?.refreshToken && Date.now() < before.accessExpires - margin) return (this.current = before);
    try {
      return await this.keep(await this.post("refresh", { refresh_token: before.refreshToken }));
    } catch (e) {
      if (e instanceof GoChatError && (e.code === Code.SessionRevoked || e.code === Code.Banned)) {
        this.current = undefined;
        await this.store.save(undefined);
      }
      throw e;
    }
  }

  private async keep(a: Record<string, unknown>): Promise<Grant> {
    const g: Grant = {
      user: String(a.user_id), device: String(a.device_id), accessToken: String(a.access_token), accessExpires: Number(a.access_expires),
      refreshToken: String(a.refresh_token), refreshExpires: Number(a.refresh_expires),
    };
    await this.store.save(g); // a refresh token is good once: the next is stored before it is used
    return (this.current = g);
  }

  private async post(route: string, body: object, bearer?: string): Promise<Record<string, unknown>> {
    let r: Response;
    let a: unknown;
    try {
      const headers: Record<string, string> = { "Content-Type": "application/json" };
      if (bearer) headers.Authorization = `Bearer ${bearer}`;
      r = await fetch(`${this.base}/api/v1/auth/${route}`, { method: "POST", headers, body: JSON.stringify(body) });
      a = await r.json();
    } catch (e) {
      throw new ConnectionError(`${route}: the server can't be reached`, { cause: e });
    }
    if (r.ok) return a as Record<string, unknown>;
    const { code, message, retry_after_ms } = (a as { error?: { code?: number; message?: string; retry_after_ms?: number } }).error ?? {};
    throw new GoChatError(code ?? Code.Internal, message ?? `${route}: HTTP ${r.status}`, retry_after_ms ?? 0, true);
  }
}
