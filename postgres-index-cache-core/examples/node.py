"""A node that keeps a table (id integer PRIMARY KEY, name text) as a dict, and answers the fleet's questions.

python3 node.py "host=localhost dbname=mydb" users     It takes psycopg; docs/fleet.md is the protocol."""
import hashlib, json, os, select, socket, struct, sys, time, psycopg

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
    row = digest(COLUMNS.ljust(64, b"\0") + cell(key) + cell(rows[key]))
    return digest(bytes.fromhex(salt) + digest(cell(key)) + row)

def answer(question, **fields):
    fields = {"pgic": 1, "answer": question["ask"], "id": question["id"], "node": NODE, **fields}
    if question["reply"].startswith("pgic_reply_"):
        send.execute("SELECT pg_notify(%s, %s)", [question["reply"], json.dumps(fields)])

def load(): rows.update(send.execute(f"SELECT id, name FROM {TABLE}").fetchall())

def unpack(message):
    """Returns the changes of a notification: of a packed one, each of its rows with what belongs to all of them."""
    packed = message.pop("rows", None)
    return [message] if packed is None else [{**message, **row} for row in packed]

def apply(change):
    if change["action"] in ("truncate", "reload"): rows.clear() or load()
    elif change["action"] == "delete": rows.pop(change["id"], None)
    elif "data" in change: rows[change["id"]] = change["data"]["name"]
    else:  # The row was too long to be sent.
        found = send.execute(f"SELECT name FROM {TABLE} WHERE id = %s", [change["id"]]).fetchone()
        rows.update({change["id"]: found[0]}) if found else rows.pop(change["id"], None)

def release(snapshot="0:0:"):
    """Applies the changes that were held and that the snapshot sees. Changes of one row keep their order."""
    global held
    (xmin, xmax, running), later = snapshot.split(":"), []
    for change in held[2] if held else []:
        xid = int(change["xid"])
        seen = xid < int(xmin) or xid < int(xmax) and str(xid) not in running.split(",")
        blocked = any(other["id"] in (change["id"], None) or change["id"] is None for other in later)
        apply(change) if seen and not blocked else later.append(change)
    held = None
    return later

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

def take(question, sender):
    global held
    if question.get("pgic") != 1 or question.get("rel", rel) != rel: return
    if question["ask"] == "who":
        table = {"schema": "public", "table": TABLE, "rel": rel, "rows": len(rows), "state": "live"}
        answer(question, state="live", tables=[table], version="node.py")
    elif question["ask"] == "row":
        found = salted(question["salt"], question["key"]).hex() if question["key"] in rows else None
        answer(question, has=found is not None, digest=found, columns=COLUMNS.hex(), state="live")
    elif question["ask"] == "freeze" and not held: held = (question["id"], sender, [], time.monotonic() + 2)
    elif question["ask"] == "digest":
        if not held or held[:2] != (question["freeze"], sender):
            return answer(question, inconclusive="the table was not frozen before")
        later = release(question["snapshot"])
        answer(question, **digests(question))
        for change in later: apply(change)

def arrived(seconds):
    """Yields the notifications that arrive in that time. Connection.notifies takes a timeout since psycopg 3.2 alone."""
    select.select([listen], [], [], seconds)
    listen.pgconn.consume_input()
    while sent := listen.pgconn.notifies():
        yield sent.relname.decode(), sent.extra.decode(), sent.be_pid

listen.execute("LISTEN cache_invalidation; LISTEN pgic_control; SELECT pg_try_advisory_lock_shared(1852793957)")
load()  # Behind the LISTEN: a change that the read has already is applied once more, which does no harm.
print("live", flush=True)
while True:
    for channel, payload, pid in arrived(0.5):
        try:
            message = json.loads(payload)
            if channel == "pgic_control": take(message, pid)
            elif message.get("rel") == rel:
                for change in unpack(message): held[2].append(change) if held else apply(change)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            print("not understood:", error, file=sys.stderr)  # Any role can send anything.
        if held and time.monotonic() > held[3]:
            for change in release(): apply(change)
    if held and time.monotonic() > held[3]:  # Whoever asked is gone.
        for change in release(): apply(change)
