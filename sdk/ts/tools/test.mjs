// Compiles everything into .cache/build, then runs the unit tests, or with --e2e those against a real server: GOCHAT names its binary.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL("..", import.meta.url));
const run = (command, args, env = {}) => {
  const r = spawnSync(command, args, { cwd: here, stdio: "inherit", env: { ...process.env, ...env } });
  if (r.status !== 0) process.exit(r.status ?? 1);
};
rmSync(`${here}/.cache/build`, { recursive: true, force: true });
run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json"]);
const folder = process.argv.includes("--e2e") ? "test/e2e" : "test";
const only = process.argv.slice(2).filter((a) => !a.startsWith("--"));
const files = readdirSync(`${here}/.cache/build/${folder}`).filter((f) => f.endsWith(".test.js") && (only.length === 0 || only.some((o) => f.includes(o))));
const flags = ["--enable-source-maps"];
if (!globalThis.WebSocket) flags.push("--experimental-websocket");
run(process.execPath, [...flags, "--test", "--test-concurrency=1", "--test-timeout=60000", ...files.map((f) => `.cache/build/${folder}/${f}`)]);
