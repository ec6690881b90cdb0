// The wire's codec, for tools that look at frames. Applications use the package itself.

export * from "./wire.gen.js";
export * from "./codes.gen.js";
export * from "./frame.js";
export { decode, encode, type Field, type Init, type Kind, type Schema } from "./proto.js";
