import { fileURLToPath } from "node:url";
import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vite";

// `npm run dev` serves the pages, and hands what belongs to the server to one on its usual port.
const server = process.env.GOCHAT_HTTP ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [vue()],
  resolve: { alias: { "@gochat/client": fileURLToPath(new URL("../sdk/ts/src/index.ts", import.meta.url)) } },
  // Names of files tell nothing of the machine that built them, and the same source always gives the same bundle.
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: false, sourcemap: false },
  server: { fs: { allow: [".."] }, proxy: { "/api": server, "/events": server, "/ws": { target: server, ws: true } } },
});
