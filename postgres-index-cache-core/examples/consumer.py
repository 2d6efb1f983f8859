"""Keeps a table in step as a dict of its rows by key, and prints them as JSON for each line of stdin.

python3 consumer.py "host=localhost dbname=mydb" public users     It takes psycopg; docs/payload.md is the contract.
For a table whose key is the column id, and whose triggers send all rows and columns. It ends when the connection is lost."""
import json, select, sys, psycopg

dsn, schema, table = sys.argv[1:4]
stdin = open(0, "rb", buffering=0)
# Texts of values as the triggers write them; numbers of more digits than a float has stay texts.
AS_TRIGGERS = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'"
listen, read = [psycopg.connect(dsn, autocommit=True, client_encoding="utf8") for _ in range(2)]
read.execute(AS_TRIGGERS)
name = read.execute("SELECT format('%%I.%%I', %s::text, %s::text)", [schema, table]).fetchone()[0]
rows, transaction, announced = {}, None, set()

def parse(text): return json.loads(text, parse_float=str)

def load():
    """Reads the table. A row as JSON is what a payload has as `data`."""
    found = read.execute(f"SELECT row_to_json(t)::text FROM {name} t").fetchall()
    rows.clear()
    rows.update({str(row["id"]): row for row in (parse(text) for text, in found)})

def fetch(id):
    """Reads one row by its key."""
    found = read.execute(f"SELECT row_to_json(t)::text FROM {name} t WHERE id = %s", [str(id)]).fetchone()
    if found: rows[str(id)] = parse(found[0])
    else: rows.pop(str(id), None)

def apply(change):
    global transaction, announced
    if change["action"] in ("truncate", "reload"): return load()
    if change["action"] not in ("insert", "update", "delete"): return
    key, is_sure = str(change["id"]), not (change.get("recheck") or change.get("reread"))
    if change.get("xid") != transaction: transaction, announced = change.get("xid"), set()
    # What a transaction announces of one key need not be in the order in which it was done: triggers nest.
    if not is_sure or key in announced or change["action"] != "delete" and "data" not in change: fetch(change["id"])
    elif change["action"] == "delete": rows.pop(key, None)
    else: rows[key] = change["data"]
    announced.add(key)

def take(payload):
    try:
        message = parse(payload)
        if (message["table"], message.get("schema", schema)) != (table, schema): return
        packed = message.pop("rows", None)  # Many rows in one payload: what is beside them belongs to each.
        for change in [message] if packed is None else [{**message, **row} for row in packed]: apply(change)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, psycopg.DataError) as error:
        print("not understood:", error, file=sys.stderr)  # Any role can send anything.

listen.execute("LISTEN cache_invalidation")  # Before the table is read: no change falls between.
load()
print("live", flush=True)
while True:
    readable, _, _ = select.select([listen, stdin], [], [])
    if listen in readable:
        listen.pgconn.consume_input()  # Raises if the connection is lost.
        while sent := listen.pgconn.notifies(): take(sent.extra.decode())
    if stdin in readable:
        if not stdin.readline(): break
        print(json.dumps(rows), flush=True)
