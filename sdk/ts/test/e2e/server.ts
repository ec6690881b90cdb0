// A real server over the life of a test.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";

async function freePort(): Promise<number> {
  const s = createServer().listen(0, "127.0.0.1");
  await once(s, "listening");
  const { port } = s.address() as { port: number };
  s.close();
  await once(s, "close");
  return port;
}

export class Server {
  private process: ChildProcess | undefined;
  said = "";

  private constructor(
    private readonly data: string,
    readonly tcp: string,
    readonly http: string,
    private readonly settings: Record<string, string>,
  ) {}

  /** @param settings of its configuration, by the names of environment variables */
  static async start(settings: Record<string, string> = {}): Promise<Server> {
    const s = new Server(await mkdtemp(join(tmpdir(), "gochat-ts-")), `127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`, settings);
    await s.up();
    return s;
  }

  /** Starts it, and resolves when it is ready. */
  async up(): Promise<void> {
    const binary = process.env.GOCHAT;
    if (!binary) throw new Error("GOCHAT doesn't name the server's binary");
    const p = spawn(binary, ["serve", "--data", this.data, "--tcp", this.tcp, "--http", this.http], {
      stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...this.settings },
    });
    this.process = p;
    for (const out of [p.stdout!, p.stderr!]) out.on("data", (b: Buffer) => (this.said += b.toString()));
    for (const until = Date.now() + 20_000; ; ) {
      if (p.exitCode !== null || Date.now() > until) throw new Error(`the server didn't start:\n${this.said}`);
      try {
        if ((await fetch(`http://${this.http}/readyz`)).ok) return;
      } catch {
        // not yet
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Ends it: without a word (SIGKILL), or in order (SIGTERM). */
  async down(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    const p = this.process;
    if (!p || p.exitCode !== null || p.signalCode !== null) return;
    const ended = once(p, "exit");
    p.kill(signal);
    await ended;
  }

  /** Tells it to end (SIGTERM), and waits for nothing. */
  leave(): void {
    this.process?.kill("SIGTERM");
  }

  async remove(): Promise<void> {
    await this.down();
    await rm(this.data, { recursive: true, force: true });
  }
}
