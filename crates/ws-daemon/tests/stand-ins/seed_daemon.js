// A stand-in for the seed daemon, written from its description and the recorded conversations: what ours must
// get along with. It owns both roles of that daemon, its habits and its measured faults; it never learns to be
// better than the seed. Kept faults: one JSON value a chunk or silence; a status goes to the local process that
// connected last, and none is left when any of them leaves; an unknown script is never answered; a script that
// cannot be executed ends the daemon; a server sends statuses round robin, whoever asked; no pings of its own;
// SIGTERM leaves the socket file behind. Not from the seed: `listen`, port 0, SEED_RECONNECT_MS, and log lines
// (standard error) in the words that ours uses, so that tests wait for both alike.
'use strict';

const { spawn } = require('child_process');
const fs = require('fs');
const net = require('net');
const path = require('path');
const ReconnectingWebSocket = require('reconnecting-websocket');
const WebSocket = require('ws');

const prefix = process.env.WSDAEMON_PREFIX || '/root/ws-daemon';
const config = JSON.parse(fs.readFileSync(path.join(prefix, 'config.json'), 'utf8'));

const log = (line) => process.stderr.write(line + '\n');

// ---- The local side -------------------------------------------------------------------------------------

let lastLocal = null;

function tellLocal(value) {
  if (lastLocal) lastLocal.write(JSON.stringify(value) + '\n');
}

function hearLocal(chunk) {
  let message;
  try {
    message = JSON.parse(chunk);
  } catch {
    return;
  }
  if (message.name === '+cmd') {
    command(message.params);
  } else if (!link.send(chunk.toString())) {
    tellLocal({ status: -2, id: message.id });
  }
}

function freeSocketPath() {
  let candidate = path.join(prefix, 'ws-daemon.sock');
  for (let n = 0; fs.existsSync(candidate); n += 1) candidate = path.join(prefix, `ws-daemon${n}.sock`);
  return candidate;
}

function listenLocal() {
  const socketPath = freeSocketPath();
  const server = net.createServer((connection) => {
    lastLocal = connection;
    connection.on('data', hearLocal);
    connection.on('close', () => {
      lastLocal = null;
    });
  });
  server.listen(socketPath, () => log(`local socket ready path=${socketPath}`));
  process.on('SIGINT', () => {
    fs.unlinkSync(socketPath);
    process.exit(0);
  });
}

// ---- What a message from the link does ------------------------------------------------------------------

function hearLink(text) {
  log(`link heard ${text}`);
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return;
  }
  if (message.name === '&cmd') command(message.params);
  else run(message);
}

function run({ name, id, params }) {
  const file = path.join(prefix, 'scripts', name);
  if (!fs.existsSync(file)) return;
  const child = spawn(file, [String(JSON.stringify(params))]);
  child.stdout.on('data', (data) => log(`script stdout: ${data}`));
  child.stderr.on('data', (data) => log(`script stderr: ${data}`));
  child.on('exit', (status) => {
    link.send(JSON.stringify({ name: '&cmd', params: { code: 'STATUS', data: { status, id } } }));
  });
}

function command({ code, data }) {
  switch (code.toUpperCase()) {
    case 'STATUS':
      tellLocal(data);
      break;
    case 'PAUSE':
      link.pause(data);
      break;
    default:
  }
}

// ---- The two roles: `send` says whether the message went anywhere ---------------------------------------

function serverLink() {
  const peers = [];
  let next = 0;
  const server = new WebSocket.Server({ port: config.port, host: config.listen }, () => {
    const { address, port } = server.address();
    log(`listening address=${address}:${port}`);
  });
  server.on('connection', (peer, request) => {
    peers.push(peer);
    peer.on('message', (data) => hearLink(String(data)));
    peer.on('error', (error) => log(`link error ${error.message}`));
    peer.on('close', (code) => {
      peers.splice(peers.indexOf(peer), 1);
      log(`link down code=${code}`);
    });
    log(`link up peer=${request.socket.remoteAddress}:${request.socket.remotePort}`);
  });
  return {
    send(text) {
      if (peers.length === 0) return false;
      next %= peers.length;
      peers[next].send(text);
      next += 1;
      return true;
    },
    pause() {},
  };
}

function clientLink() {
  const url = /^wss?:/.test(config.proxy) ? config.proxy : `ws://${config.proxy}:${config.port}`;
  const options = { WebSocket };
  if (process.env.SEED_RECONNECT_MS) options.minReconnectionDelay = Number(process.env.SEED_RECONNECT_MS);
  const socket = new ReconnectingWebSocket(url, [], options);
  socket.addEventListener('open', () => log(`link up peer=${url}`));
  socket.addEventListener('close', () => log('link down'));
  socket.addEventListener('message', (event) => hearLink(event.data));
  return {
    send(text) {
      socket.send(text);
      return true;
    },
    pause(ms) {
      socket.close();
      setTimeout(() => socket.reconnect(), ms);
    },
  };
}

const link = config.mode === 'server' ? serverLink() : clientLink();
listenLocal();
