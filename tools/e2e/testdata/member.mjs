// A member of a group over a JSON WebSocket, with Node's `ws`: says COUNT things when it is told
// to, and prints what it has heard as a JSON list of [seq, sender, content] when that reaches LAST.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const [library, url, token, conversation, user, count, last] = process.argv.slice(2)
const WebSocket = createRequire(library + '/')('ws')
const fail = why => { console.error(why); process.exit(1) }
const heard = new Map()
const sent = new Map()
const id = n => `018d467f-d800-7000-8000-${(BigInt('0x' + Buffer.from(user).toString('hex').slice(0, 6).padEnd(6, '0')) * 65536n + BigInt(n)).toString(16).padStart(12, '0')}`

const ws = new WebSocket(url, ['gochat.v1.json', 'gochat.token.' + token])
const send = packet => ws.send(JSON.stringify(packet))
const done = () => {
  const list = [...heard.entries()].sort((a, b) => a[0] - b[0]).map(([seq, [from, text]]) => [seq, from, text])
  if (list.length && list.at(-1)[0] === Number(last) && list.length === last - list[0][0] + 1) {
    console.log(JSON.stringify(list))
    ws.close(1000, 'bye')
  }
}
ws.on('open', () => {
  if (ws.protocol !== 'gochat.v1.json' || ws.extensions) fail(`protocol ${ws.protocol}, extensions ${ws.extensions}`)
  ws.ping('are you there?')
})
ws.on('pong', data => {
  if (String(data) !== 'are you there?') fail('another pong: ' + data)
  send({ type: 'connect', req_id: 1, data: { version: 1, device_id: 'phone', device_kind: 'web' } })
})
ws.on('message', (data, binary) => {
  if (binary) fail('a binary message')
  const p = JSON.parse(data)
  switch (p.type) {
    case 'connack':
      console.log('ready')
      break
    case 'sendack':
      heard.set(Number(p.data.seq), [user, sent.get(p.req_id)])
      break
    case 'message':
      heard.set(Number(p.data.seq), [p.data.sender_id, p.data.content])
      break
    case 'signal': // somebody types
      break
    default:
      fail(String(data))
  }
  done()
})
ws.on('error', fail)
ws.on('close', code => process.exit(code === 1000 ? 0 : 1))
createInterface({ input: process.stdin }).on('line', () => {
  for (let n = 1; n <= Number(count); n++) {
    sent.set(n + 1, `${user} says ${n} 你好`)
    send({ type: 'send', req_id: n + 1, data: { conversation_id: conversation, client_msg_id: id(n), msg_type: 1, content: sent.get(n + 1) } })
  }
})
