"""The same as member.mjs, with Python's `websockets`."""
import asyncio
import json
import sys
import uuid

import websockets

url, token, conversation, user, count, last = sys.argv[1:]
heard, sent = {}, {}


async def forged():
    async with websockets.connect(url, subprotocols=["gochat.v1.json"], additional_headers={"Authorization": "Bearer forged"}) as ws:
        await ws.send('{"type": "connect", "data": {"version": 1, "device_id": "python"}}')
        told = json.loads(await ws.recv())
        try:
            await ws.recv()
            sys.exit("a forged token is good for something")
        except websockets.ConnectionClosed as e:
            assert told["data"]["name"] == "unauthenticated" and e.rcvd.code == 4006, (told, e)


async def main():
    await forged()
    async with websockets.connect(url, subprotocols=["gochat.v1.json"], additional_headers={"Authorization": "Bearer " + token}) as ws:
        assert ws.subprotocol == "gochat.v1.json"
        await (await ws.ping(b"are you there?"))
        # In fragments, as any message may come.
        hello = json.dumps({"type": "connect", "req_id": 1, "data": {"version": 1, "device_id": "phone", "device_kind": "bot"}})
        await ws.send([hello[:10], hello[10:]])
        assert json.loads(await ws.recv())["type"] == "connack"
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        for n in range(1, int(count) + 1):
            sent[n + 1] = f"{user} says {n} 你好"
            await ws.send(json.dumps({"type": "send", "req_id": n + 1, "data": {
                "conversation_id": conversation, "client_msg_id": str(uuid.UUID(f"018d467f-d800-7000-8000-{n:012x}")),
                "msg_type": 1, "content": sent[n + 1]}}))
        while not heard or max(heard) != int(last) or len(heard) != max(heard) - min(heard) + 1:
            p = json.loads(await ws.recv())
            if p["type"] == "sendack":
                heard[int(p["data"]["seq"])] = [user, sent[p["req_id"]]]
            elif p["type"] == "message":
                heard[int(p["data"]["seq"])] = [p["data"]["sender_id"], p["data"]["content"]]
            else:
                sys.exit(str(p))
        print(json.dumps([[seq, *heard[seq]] for seq in sorted(heard)]), flush=True)


asyncio.run(main())
