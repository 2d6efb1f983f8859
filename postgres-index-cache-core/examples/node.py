"""A node that keeps a table (id integer PRIMARY KEY, name text) as a dict, and answers the fleet's questions.

python3 node.py "host=localhost dbname=mydb" users     It takes psycopg; docs/fleet.md is the protocol."""
import hashlib, json, os, socket, struct, sys, psycopg

TABLE, rows, held = sys.argv[2], {}, None
listen, send = [psycopg.connect(sys.argv[1], autocommit=True) for _ in range(2)]
rel = listen.execute("SELECT %s::regclass::oid::int8", [TABLE]).fetchone()[0]
NODE = {"name": "python", "host": socket.gethostname(), "pid": os.getpid(), "listener": listen.info.backend_pid}

def digest(data): return hashlib.sha256(data).digest()[:16]

def cell(value):
    if value is None: return b"\0"
    value = struct.pack("<i", value) if isinstance(value, int) else value.encode()
    return (bytes([len(value) + 1]) if len(value) < 254 else b"\xff" + struct.pack("<I", len(value))) + value

COLUMNS = digest(cell("id") + cell("name"))

def salted(salt, key):
    return digest(bytes.fromhex(salt) + digest(cell(key)) + digest(COLUMNS.ljust(64, b"\0") + cell(key) + cell(rows[key])))

def answer(question, **fields):
    fields = {"pgic": 1, "answer": question["ask"], "id": question["id"], "node": NODE, **fields}
    send.execute("SELECT pg_notify(%s, %s)", [question["reply"], json.dumps(fields)])

def load(): rows.update(dict(send.execute(f"SELECT id, name FROM {TABLE}").fetchall()))

def apply(change):
    if change["action"] in ("truncate", "reload"): rows.clear() or load()
    elif change["action"] == "delete": rows.pop(change["id"], None)
    elif "data" in change: rows[change["id"]] = change["data"]["name"]
    else:  # The row was too long to be sent.
        found = send.execute(f"SELECT name FROM {TABLE} WHERE id = %s", [change["id"]]).fetchone()
        rows.update({change["id"]: found[0]}) if found else rows.pop(change["id"], None)

def seen(change, snapshot):
    (xmin, xmax, running), xid = snapshot.split(":"), int(change["xid"])
    return xid < int(xmin) or xid < int(xmax) and str(xid) not in running.split(",")

def digests(question):
    bits, split, listed = question["bits"], question["split"], []
    sums = [[0, 0] for _ in range(len(question["prefixes"]) << split)]
    for key in rows:
        top = int.from_bytes(digest(cell(key)), "big") >> (128 - bits - split)
        if top >> split in question["prefixes"]:
            at = (question["prefixes"].index(top >> split) << split) | (top & ((1 << split) - 1))
            row = salted(question["salt"], key)
            sums[at] = [sums[at][0] + 1, (sums[at][1] + int.from_bytes(row, "big")) % 2**128]
            listed.append([digest(cell(key)).hex(), row.hex()])
    return {"rows": listed} if question["list"] else {"ranges": [[n, f"{total:032x}"] for n, total in sums]}

def take(question):
    global held
    if question.get("pgic") != 1 or question.get("rel", rel) != rel: return
    if question["ask"] == "who":
        table = {"schema": "public", "table": TABLE, "rel": rel, "rows": len(rows), "state": "live"}
        answer(question, state="live", tables=[table], version="node.py")
    elif question["ask"] == "row":
        found = salted(question["salt"], question["key"]).hex() if question["key"] in rows else None
        answer(question, has=found is not None, digest=found, columns=COLUMNS.hex(), state="live")
    elif question["ask"] == "freeze": held = (question["id"], [])
    elif question["ask"] == "digest":
        (freeze, changes), held = held or (None, []), None
        changes.sort(key=lambda change: not seen(change, question["snapshot"]))  # Stable: those that it sees first.
        known = sum(seen(change, question["snapshot"]) for change in changes)
        for change in changes[:known]: apply(change)
        answer(question, **(digests(question) if freeze == question["freeze"] else {"inconclusive": "not frozen"}))
        for change in changes[known:]: apply(change)

listen.execute("LISTEN cache_invalidation; LISTEN pgic_control; SELECT pg_advisory_lock_shared(1852793957)")
load()  # Behind the LISTEN: a change that the read has already is applied once more, which does no harm.
print("live", flush=True)
for notification in listen.notifies():
    message = json.loads(notification.payload)
    if notification.channel == "pgic_control": take(message)
    elif message.get("rel") == rel: held[1].append(message) if held else apply(message)
