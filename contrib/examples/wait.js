#!/usr/bin/env node
// Waits as long as it is asked to, and answers others meanwhile.
const lines = require('node:readline').createInterface({ input: process.stdin })
const say = answer => process.stdout.write(JSON.stringify(answer) + '\n')
lines.on('line', line => {
  const { id, params } = JSON.parse(line)
  say({ id, event: 'output', stream: 'stderr', data: `waiting ${params} ms\n` })
  setTimeout(() => say({ id, status: 0, result: params }), params)
})
