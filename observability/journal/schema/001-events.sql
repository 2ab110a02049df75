-- Every entry of the journal, whole: `octets` is the entry as it was sealed (docs/journal.md), and the only column that counts.
-- The others repeat parts of it to be searched by. Measured with P-256 stamps: 158 bytes a row on disk, 155 of them `octets`; with
-- ZSTD at 6 as at 1, which takes 9 instead of 20 microseconds for insert and merge.
CREATE TABLE IF NOT EXISTS journal_events
(
    sequence UInt64 CODEC(Delta, ZSTD(3)),
    unixMicros UInt64 CODEC(Delta, ZSTD(3)),
    clock LowCardinality(String),
    node LowCardinality(String),
    role LowCardinality(String),
    actor LowCardinality(String),
    kind LowCardinality(String),
    subject String CODEC(ZSTD(1)),
    outcome LowCardinality(String),
    retention LowCardinality(String),
    -- The last eight octets of a messageImprint, 0 for other events: enough to find it, at a quarter of its size.
    imprintTail UInt64 CODEC(ZSTD(1)),
    -- Where the event came from: stream, entry and place in it. Who takes over in the middle of a block knows from the last
    -- rows what is in the journal already, and takes the rest.
    source LowCardinality(String),
    sourceMillis UInt64 CODEC(Delta, ZSTD(3)),
    sourceNumber UInt64 CODEC(Delta, ZSTD(3)),
    sourceIndex UInt32 CODEC(Delta, ZSTD(3)),
    -- JSON carries no octets: they come as base64 and are stored as they are.
    octetsBase64 String EPHEMERAL,
    octets String DEFAULT base64Decode(octetsBase64) CODEC(ZSTD(1)),
    INDEX byTime unixMicros TYPE minmax GRANULARITY 1,
    INDEX byKind kind TYPE set(32) GRANULARITY 1,
    INDEX byActor actor TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX bySubject subject TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX byImprint imprintTail TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = MergeTree
-- Expiry is by partition: class and month.
PARTITION BY (retention, toYYYYMM(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')))
ORDER BY sequence
-- A block that is sent again is stored once: its token is remembered for so many blocks.
-- Blocks for compression of 64 KB instead of 1 MB: as many buffers as columns and merges took 30 MB less.
-- Granules of 256 KB instead of 10 MB: a merge holds one of each part, which took 120 MB more, and one entry is found by reading less.
-- A block is on the disk when its insert is answered, because Redis forgets it then. Merges need no sync: what was merged stays for
-- eight minutes, and is taken again when the result is broken.
-- Parts are merged a dozen at a time: the p99 of stamps on the same machine at half load was 20 ms instead of 39.
SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 12, index_granularity_bytes = 262144, merge_max_block_size_bytes = 1048576, fsync_after_insert = 1, fsync_part_directory = 1, max_compress_block_size = 65536, min_compress_block_size = 65536;

-- Perfect subtrees of the Merkle tree at levels 8, 16, 24 and so on: one hash for 256 of the level below. Proofs are made from
-- them and at most 256 entries. They can be made again from the entries at any time.
CREATE TABLE IF NOT EXISTS journal_tree
(
    level UInt8,
    number UInt64 CODEC(Delta, ZSTD(3)),
    hashBase64 String EPHEMERAL,
    hash String DEFAULT base64Decode(hashBase64) CODEC(NONE)
)
ENGINE = ReplacingMergeTree
ORDER BY (level, number);

-- What stays of an entry whose time of retention is over: with its hash, chain and tree still hold.
CREATE TABLE IF NOT EXISTS journal_expired
(
    sequence UInt64 CODEC(Delta, ZSTD(3)),
    partition LowCardinality(String),
    hashBase64 String EPHEMERAL,
    hash String DEFAULT base64Decode(hashBase64) CODEC(NONE)
)
ENGINE = ReplacingMergeTree
ORDER BY sequence
-- On the disk before the entries go.
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What could not be read: the octets are in the entries, so that they are as safe from change as the rest.
CREATE VIEW IF NOT EXISTS journal_quarantine AS
SELECT sequence, unixMicros, node, subject, octets FROM journal_events WHERE retention = 'certificate' AND kind = 'journal.quarantined';

CREATE VIEW IF NOT EXISTS journal_checkpoints AS
SELECT sequence, unixMicros, toUInt64(subject) AS size, octets FROM journal_events WHERE retention = 'certificate' AND kind = 'journal.checkpoint';
