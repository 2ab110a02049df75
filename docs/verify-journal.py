#!/usr/bin/env python3
"""Verifies what a Sigillo journal gives out, without Sigillo: with Python 3 alone and the program openssl.

    python3 verify-journal.py bundle november.bundle --key journal.pem --roots trust.pem
    python3 verify-journal.py inclusion proof.json --key journal.pem
    python3 verify-journal.py consistency proof.json --key journal.pem --old kept.txt

The formats are those of journal.md. Key and roots must come from elsewhere than what is verified. Exit status 0: valid; 1: not, and
the line that is printed names the place; 2: it could not be looked at. With --show the entries are printed as they are read, a JSON object
a line; they count when "valid" follows. It runs with Python 3.6 and later.
"""
import argparse, base64, calendar, hashlib, json, os, re, subprocess, sys, tempfile, time


class Refused(Exception):
    pass


def demand(condition, why):
    if not condition:
        raise Refused(why)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def octets_of(text):
    """Base64 that has one spelling."""
    octets = base64.b64decode(text, validate=True)
    demand(base64.b64encode(octets).decode() == text, "another spelling of base64")
    return octets


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_hash(entry):  # RFC 6962, section 2.1; the same hash is `previous` of the next entry
    return sha256(b"\0", entry)


def node_hash(left, right):
    return sha256(b"\1", left, right)


# --- An entry: an array of 13 in deterministic CBOR (RFC 8949, section 4.2.1) ---

names = "version sequence unixMicros clock node role actor kind subject outcome retention detail previous".split()


def read_head(data, at):
    """Major type, argument and the place behind them; the argument must be in its shortest form."""
    major, short = data[at] >> 5, data[at] & 31
    if short < 24:
        return major, short, at + 1
    demand(short < 28, "a CBOR head that no entry has")
    length = 1 << (short - 24)
    value = int.from_bytes(data[at + 1 : at + 1 + length], "big")
    demand(value >= (24 if length == 1 else 1 << (4 * length)), "a number that is not in its shortest form")
    return major, value, at + 1 + length


def read_value(data, at):
    if data[at] in (0xF4, 0xF5):
        return data[at] == 0xF5, at + 1
    major, value, at = read_head(data, at)
    if major == 0:
        return value, at
    demand(major in (2, 3) and at + value <= len(data), "a value of another type, or one that is cut off")
    octets = data[at : at + value]
    return (octets if major == 2 else octets.decode("utf-8")), at + value


def read_map(data, at):
    major, count, at = read_head(data, at)
    demand(major == 5, "the detail is no map")
    fields, before = {}, b""
    for _ in range(count):
        name, end = read_value(data, at)
        demand(isinstance(name, str) and data[at:end] > before, "fields that are not in bytewise order")
        before = data[at:end]
        fields[name], at = read_value(data, end)
    return fields, at


def read_entry(data):
    try:
        demand(data[0] == 0x8D, "no array of 13")
        entry, at = {}, 1
        for name in names:
            entry[name], at = read_map(data, at) if name == "detail" else read_value(data, at)
        demand(at == len(data), "octets behind the end")
    except (IndexError, UnicodeDecodeError):
        raise Refused("it is cut off, or holds text that is not UTF-8")
    demand(entry["version"] == 1 and type(entry["sequence"]) is int, "it is not of version 1")
    demand(isinstance(entry["previous"], bytes) and len(entry["previous"]) == 32, "`previous` is no SHA-256")
    return entry


# --- The tree (RFC 6962, section 2.1) and its proofs (RFC 9162, sections 2.1.3.2 and 2.1.4.2) ---


class Tree:
    """Keeps the perfect subtrees from left to right as (number of leaves, hash), each smaller than the one before."""

    def __init__(self, size, hashes):
        sizes = [1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]
        demand(len(sizes) == len(hashes), "`left` does not hold the subtrees of %d entries" % size)
        self.subtrees = list(zip(sizes, hashes))

    def append(self, leaf):
        size = 1
        while self.subtrees and self.subtrees[-1][0] == size:
            size, leaf = 2 * size, node_hash(self.subtrees.pop()[1], leaf)
        self.subtrees.append((size, leaf))

    def root(self):
        root = self.subtrees[-1][1]
        for _, left in reversed(self.subtrees[:-1]):
            root = node_hash(left, root)
        return root


def climb(node, last, path, old, new):
    """Goes up from a node to the root; gives the roots of the tree that ends at the node, and of the whole, or None."""
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return (old, new) if last == 0 else None


def is_included(leaf, index, size, path, root):
    climbed = climb(index, size - 1, path, leaf, leaf) if 0 <= index < size else None
    return climbed is not None and climbed[1] == root


def is_continued(old_size, old_root, size, root, path):
    if old_size == size:
        return not path and old_root == root
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    path = [old_root] + path if node == 0 else path  # an old tree that is one subtree is not in the proof
    return bool(path) and climb(node, last, path[1:], path[0], path[0]) == (old_root, root)


# --- Checkpoints: signed notes, and their timestamps; openssl judges both ---


def run_openssl(files, *parameters):
    """Runs openssl in a folder that holds these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
        return subprocess.run(["openssl"] + list(parameters), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def check_note(note, key):
    """Origin, size and root of a checkpoint that the key has signed."""
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    demand(separator and note.endswith("\n"), "the checkpoint is no signed note")
    body = re.sub(rb"-----[^-]*-----|\s", b"", key)
    key_id = sha256(base64.b64decode(body))[:4]
    origin, size, root = text.split("\n")[:3]
    demand(re.match(r"(0|[1-9][0-9]{0,15})\Z", size), "the checkpoint has no size")
    own = [octets_of(line.split(" ")[2]) for line in signatures.splitlines() if line.startswith("\u2014 %s " % origin)]
    own = [octets[4:] for octets in own if octets[:4] == key_id]  # those of other keys, such as witnesses, are passed over
    demand(own, "the checkpoint of %s entries is not signed by this key" % size)
    for signature in own:
        files = {"text": text.encode(), "signature": signature, "key.pem": key}
        done = run_openssl(files, "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "text")
        demand(done.returncode == 0, "the signature of the checkpoint of %s entries is wrong" % size)
    return origin, int(size), octets_of(root)


def check_timestamp(note, token, certificates, roots):
    """genTime of the token, as openssl writes it. The certificates are judged at that time: they end long before a journal does."""
    pem = b"".join(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in certificates)
    files = {"note": note.encode(), "token": token, "chain.pem": pem, "roots.pem": roots}
    told = run_openssl(files, "ts", "-reply", "-in", "token", "-token_in", "-text").stdout.decode("utf-8", "replace")
    found = re.search(r"^Time stamp: (\w+ +\d+ [\d:]+)(\.\d+)? (\d+) GMT", told, re.M)
    demand(found, "the timestamp of the checkpoint cannot be read")
    at = calendar.timegm(time.strptime(found.group(1) + " " + found.group(3), "%b %d %H:%M:%S %Y"))
    trust = ["-CAfile", "roots.pem", "-untrusted", "chain.pem", "-attime", str(at)]
    done = run_openssl(files, "ts", "-verify", "-data", "note", "-in", "token", "-token_in", *trust)
    demand(done.returncode == 0, "the timestamp of the checkpoint: " + " ".join(done.stdout.decode("utf-8", "replace").split()))
    return found.group(0)[len("Time stamp: ") :]


# --- What is verified ---


def read_note(path):
    """A signed note as text, or as GET /journal/checkpoint gives it in JSON."""
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    return json.loads(text)["note"] if text.startswith("{") else text


def hashes_of(values):
    hashes = [octets_of(value) for value in values]
    demand(all(len(one) == 32 for one in hashes), "a hash in the header or the path is no SHA-256")
    return hashes


def show(entry):
    printable = lambda value: base64.b64encode(value).decode() if isinstance(value, bytes) else value
    detail = {name: printable(value) for name, value in entry["detail"].items()}
    print(json.dumps(dict(entry, detail=detail, previous=entry["previous"].hex()), ensure_ascii=False))


def read_place(line, at):
    """Sequence number, hash, and the entry unless it has expired."""
    try:
        if line.startswith(b"{"):
            expired = json.loads(line)["expired"]
            return expired["sequence"], hashes_of([expired["hash"]])[0], None
        octets = octets_of(line.decode("ascii").rstrip("\n"))
        entry = read_entry(octets)
        return entry["sequence"], leaf_hash(octets), entry
    except (Refused, ValueError, KeyError, TypeError) as error:
        raise Refused("entry %d is no entry: %s" % (at, error))


def follow(file, head, tree, at, previous, is_shown):
    """Follows the chain from line to line, and gives the hashes to the tree; returns where it ends, and how many have expired."""
    digest, expired, begin, trailer = hashlib.sha256(head), 0, at, None
    for line in file:
        demand(trailer is None, "lines follow the trailer")
        if line.startswith(b'{"entries"'):
            trailer = json.loads(line)
            continue
        digest.update(line)
        sequence, leaf, entry = read_place(line, at)
        demand(sequence == at, "entry %d is not at its place: entry %d stands there" % (at, sequence))
        if entry and previous not in (None, entry["previous"]):
            raise Refused("entry %d is not what it was: entry %d was made behind another one" % (at - 1, at))
        tree.append(leaf)
        expired += entry is None
        if entry and is_shown:
            show(entry)
        at, previous = at + 1, leaf
    demand(trailer is not None, "the bundle is cut off behind entry %d" % (at - 1))
    fits = trailer == {"entries": at - begin, "sha256": digest.hexdigest()}
    return at, expired, fits


def verify_bundle(options, key):
    with open(options.file, "rb") as file:
        head = file.readline()
        header = json.loads(head)
        demand(header["format"] == "sigillo-journal-bundle" and header["version"] == 1, "it is no bundle of version 1")
        begin, end, left = header["from"], header["to"], hashes_of(header["left"])
        origin, size, root = check_note(header["checkpoint"], key)
        demand(header["origin"] == origin, "the checkpoint is of another journal: " + origin)
        demand(0 <= begin < end <= size, "the checkpoint of %d entries does not cover entries %d to %d" % (size, begin, end - 1))
        # What the first entry was made behind is known at the begin of the journal, and where the last subtree is a single leaf.
        previous = bytes(32) if begin == 0 else left[-1] if left and begin % 2 else None
        tree = Tree(begin, left)
        at, expired, fits = follow(file, head, tree, begin, previous, options.show)
    demand(at >= end, "entries %d to %d are missing" % (at, end - 1))
    demand(at == end, "there are entries behind %d" % (end - 1))
    chained = "entries %d to %d are chained, but do not lead to the signed root: entry %d was changed, or all from some entry on"
    demand(is_continued(end, tree.root(), size, root, hashes_of(header["consistency"])), chained % (begin, end - 1, end - 1))
    demand(fits, "the trailer does not fit, though all entries are proven")
    if header["token"] is None or options.roots is None:
        stamped = "whose timestamp is absent" if header["token"] is None else "whose timestamp was not looked at (no --roots)"
    else:
        certificates = [octets_of(one) for one in header["certificates"]]
        stamped = "stamped " + check_timestamp(header["checkpoint"], octets_of(header["token"]), certificates, read(options.roots))
    found = "entries %d to %d of %s, %d of them expired" % (begin, end - 1, origin, expired)
    return "%s; by the checkpoint of %d entries, %s" % (found, size, stamped)


def verify_inclusion(options, key):
    proof = json.loads(read(options.file).decode("utf-8"))
    origin, size, root = check_note(read_note(options.checkpoint) if options.checkpoint else proof["checkpoint"], key)
    demand(proof["size"] == size, "the proof is for %d entries, the checkpoint for %d" % (proof["size"], size))
    index, leaf = proof["sequence"], hashes_of([proof["leafHash"]])[0]
    if "entry" in proof:
        entry = read_entry(octets_of(proof["entry"]))
        demand(leaf_hash(octets_of(proof["entry"])) == leaf, "the entry is not the one of the proof: its hash is another")
        demand(entry["sequence"] == index, "the entry is %d, the proof is for %d" % (entry["sequence"], index))
        if options.show:
            show(entry)
    demand(is_included(leaf, index, size, hashes_of(proof["path"]), root), "the path does not lead from entry %d to the root" % index)
    return "entry %d is in %s, by the checkpoint of %d entries" % (index, origin, size)


def verify_consistency(options, key):
    proof = json.loads(read(options.file).decode("utf-8"))
    old_origin, old_size, old_root = check_note(read_note(options.old), key)
    origin, size, root = check_note(read_note(options.checkpoint) if options.checkpoint else proof["checkpoint"], key)
    demand(old_origin == origin, "the checkpoints are of two journals: %s and %s" % (old_origin, origin))
    for name, told, signed in (("from", proof["from"], old_size), ("to", proof["to"], size)):
        demand(told == signed, "`%s` of the proof is %d, its checkpoint is of %d entries" % (name, told, signed))
    why = "the first %d entries are not what they were, or the path is wrong" % old_size
    demand(0 < old_size <= size and is_continued(old_size, old_root, size, root, hashes_of(proof["path"])), why)
    return "the %d entries of %s continue the %d of the old checkpoint" % (size, origin, old_size)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="bundle | inclusion | consistency")
    commands.required = True
    for name, verify in (("bundle", verify_bundle), ("inclusion", verify_inclusion), ("consistency", verify_consistency)):
        command = commands.add_parser(name)
        command.set_defaults(verify=verify)
        command.add_argument("file", help="the bundle, or the proof as JSON")
        command.add_argument("--key", required=True, help="public key of the journal, PEM")
        if name == "bundle":
            command.add_argument("--roots", help="trusted certificates, PEM, for the timestamp of the checkpoint")
        else:
            command.add_argument("--checkpoint", help="a checkpoint of the size of the proof, where the proof brings none")
        if name == "consistency":
            command.add_argument("--old", required=True, help="the checkpoint that was kept")
        else:
            command.add_argument("--show", action="store_true", help="print the entries as JSON")
    options = parser.parse_args()
    try:
        print("valid: " + options.verify(options, read(options.key)))
    except Refused as refused:
        sys.exit("INVALID: %s" % refused)
    except OSError as error:
        print("a file cannot be read, or openssl is missing: %s" % error, file=sys.stderr)
        sys.exit(2)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        sys.exit("INVALID: it is not in the format: %s %s" % (type(error).__name__, error))


if __name__ == "__main__":
    main()
