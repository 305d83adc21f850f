// A WebSocket server that a link may meet: it selects no subprotocol, answers no more than it must, and out of
// order. Of the requests it hears every Nth (`--never N`, 3 by default; 1: all of them) is never answered; the
// others are answered in pairs, the later one first, with status 0. It owns a record of everything that was on
// the wire, one JSON object a line on standard output, and never sends anything unasked.
'use strict';

const WebSocket = require('ws');

function option(name, otherwise) {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : Number(process.argv[at + 1]);
}

const never = option('never', 3);
const note = (entry) => process.stdout.write(JSON.stringify(entry) + '\n');

const server = new WebSocket.Server(
  { host: '127.0.0.1', port: option('port', 0), handleProtocols: () => false },
  () => note({ event: 'listening', port: server.address().port }),
);

server.on('connection', (peer, request) => {
  note({ event: 'handshake', url: request.url, headers: request.headers });
  let heard = 0;
  let held = null;

  peer.on('message', (data) => {
    const text = String(data);
    note({ event: 'frame', kind: typeof data === 'string' ? 'text' : 'binary', text });
    const { name, id } = JSON.parse(text);
    if (name === '&cmd') return;
    heard += 1;
    if (heard % never === 0) return;
    if (held === null) {
      held = id;
      return;
    }
    for (const answered of [id, held]) {
      peer.send(JSON.stringify({ name: '&cmd', params: { code: 'STATUS', data: { status: 0, id: answered } } }));
    }
    held = null;
  });
  peer.on('ping', () => note({ event: 'ping' }));
  peer.on('pong', () => note({ event: 'pong' }));
  peer.on('error', (error) => note({ event: 'error', message: error.message }));
  peer.on('close', (code) => note({ event: 'close', code }));
});
