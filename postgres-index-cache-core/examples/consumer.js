// Keeps a table in step as a Map of its rows by key, and prints them as JSON for each line of stdin.
//
// node consumer.js postgresql://localhost/mydb public users     It takes the package pg; docs/payload.md is the contract.
// For a table whose key is the column id, and whose triggers send all rows and columns. It ends when the connection is lost.
'use strict';
const { Client, escapeIdentifier } = require('pg');
const [url, schema, table] = process.argv.slice(2);
const name = `${escapeIdentifier(schema)}.${escapeIdentifier(table)}`;
const rows = new Map();
let transaction, announced = new Set();

// A number of JavaScript has 53 bits: all that are not short integers become texts. What stands in strings is left alone.
const parse = (json) => JSON.parse(json.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
  (token[0] === '"' || /^-?\d{1,15}$/.test(token) ? token : `"${token}"`)));

async function load(read) { // Reads the table. A row as JSON is what a payload has as `data`.
  const found = await read.query(`SELECT row_to_json(t)::text AS row FROM ${name} t`);
  rows.clear();
  for (const row of found.rows.map(({ row }) => parse(row))) rows.set(String(row.id), row);
}

async function fetch(read, id) { // Reads one row by its key.
  const found = await read.query(`SELECT row_to_json(t)::text AS row FROM ${name} t WHERE id = $1`, [String(id)]);
  if (found.rows.length) rows.set(String(id), parse(found.rows[0].row));
  else rows.delete(String(id));
}

async function apply(read, { action, id, xid, recheck, reread, data }) {
  if (action === 'truncate' || action === 'reload') return load(read);
  if (!['insert', 'update', 'delete'].includes(action) || id == null) return;
  const key = String(id);
  if (xid !== transaction) [transaction, announced] = [xid, new Set()];
  // What a transaction announces of one key need not be in the order in which it was done: triggers nest.
  if (recheck || reread || announced.has(key) || (action !== 'delete' && data === undefined)) await fetch(read, id);
  else if (action === 'delete') rows.delete(key);
  else rows.set(key, data);
  announced.add(key);
}

async function take(read, payload) {
  let message;
  try { message = parse(payload); } catch { return console.error('not understood'); } // Any role can send anything.
  if (message?.table !== table || (message.schema ?? schema) !== schema) return;
  const { rows: packed = [{}], ...shared } = message; // Many rows in one payload: what is beside them belongs to each.
  for (const row of Array.isArray(packed) ? packed : []) {
    try { await apply(read, { ...shared, ...row }); } catch (error) {
      if (!error.code?.startsWith('22')) throw error; // An id that is none of the table (class 22) was not sent by a trigger.
      console.error('not understood:', error.message);
    }
  }
}

async function main() {
  const [listen, read] = [new Client(url), new Client(url)];
  await Promise.all([listen.connect(), read.connect()]);
  // Texts of values as the triggers write them.
  await read.query(`SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'`);
  let behind = Promise.resolve(); // One after the other, in the order in which they come, behind the load.
  const next = (step) => { behind = behind.then(step); };
  listen.on('error', (error) => { throw error; });
  listen.on('notification', ({ payload }) => next(() => take(read, payload)));
  await listen.query('LISTEN cache_invalidation'); // Before the table is read: no change falls between.
  next(() => load(read));
  next(() => console.log('live'));
  const lines = require('readline').createInterface({ input: process.stdin });
  lines.on('line', () => next(() => console.log(JSON.stringify(Object.fromEntries(rows)))));
  lines.on('close', () => next(() => process.exit()));
}
main();
