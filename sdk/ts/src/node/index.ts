// What only Node has.

export { FileStore } from "./filestore.js";
export { tcp } from "./tcp.js";
