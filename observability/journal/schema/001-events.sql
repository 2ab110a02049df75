-- Every entry of the journal, whole: `octets` is the entry as it was sealed (docs/journal.md), and the only column that counts.
-- The others repeat parts of it to be searched by. Measured with P-256 stamps: 158 bytes a row on disk, 155 of them `octets`.
CREATE TABLE journal_events
(
    sequence UInt64 CODEC(Delta, ZSTD(3)),
    unixMicros UInt64 CODEC(Delta, ZSTD(3)),
    clock LowCardinality(String),
    node LowCardinality(String),
    role LowCardinality(String),
    actor LowCardinality(String),
    kind LowCardinality(String),
    subject String CODEC(ZSTD(3)),
    outcome LowCardinality(String),
    retention LowCardinality(String),
    -- The last eight octets of a messageImprint, 0 for other events: enough to find it, at a quarter of its size.
    imprintTail UInt64 CODEC(ZSTD(1)),
    -- JSON carries no octets: they come as base64 and are stored as they are.
    octetsBase64 String EPHEMERAL,
    octets String DEFAULT base64Decode(octetsBase64) CODEC(ZSTD(6)),
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
SETTINGS non_replicated_deduplication_window = 10000;
