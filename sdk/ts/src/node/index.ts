// What only Node has: the frames over TCP.

export { tcp } from "./tcp.js";
