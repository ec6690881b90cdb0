// Signs in, says hello to somebody, and answers whatever it is told.
import { Account, Client, newDeviceId } from "@gochat/client";

const [server = "localhost:8080", name = "echo", friend = "alice"] = process.argv.slice(2);
const account = await Account.open(`http://${server}`);
const who = { name, password: "correct horse battery", device: newDeviceId() };
await account.register(who).catch(() => account.login(who));

const client = await Client.open({ url: `ws://${server}/ws`, token: account.token, device: account.grant!.device });
client.on("message", async (m) => {
  if (m.own) return;
  console.log(`${m.sender}: ${m.text}`);
  await client.send({ conversation: m.conversation }, `you said: ${m.text}`, m.seq);
});
client.on("stopped", ({ error }) => console.error(error.message));
client.start();

const ack = await client.deliver({ user: friend }, "hello");
console.log(`stored as ${ack.seq}`);
