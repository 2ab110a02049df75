-- Where entries of the class `timestamp` are, in the order of what people look for: entries lie in the order of their numbers, and a
-- question by serial number, imprint or client would read the index of a column whole, which grows with the journal. `field` says
-- what `key` is the hash of: `subject` (the serial number of a stamp), `imprint` and `client`; `place` is the number of the entry, or,
-- for a client, that of the 4,096 entries among which are some of its own. Behind `through` (its place) no entry was looked at yet.
-- A key leads to entries that may be meant; each is held against the question itself. The table can be made again at any time
-- (stamp-lookup.ts), so it names no partition: what it says of expired entries finds nothing any more.
CREATE TABLE IF NOT EXISTS journal_lookup
(
    field LowCardinality(String),
    key UInt32 CODEC(Delta, ZSTD(1)),
    place UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (field, key, place)
-- Granules of 2,048 rows: a question reads one for each key.
SETTINGS index_granularity = 2048, max_compress_block_size = 65536, min_compress_block_size = 16384, fsync_after_insert = 1, fsync_part_directory = 1;
