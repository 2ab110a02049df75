-- Who may insert entries into a store that outlives its writers: the newest fence. An insert names the one it was made under, and
-- is refused when a newer one is there (fence.ts). A row for each takeover, and for each insert of unknown outcome.
CREATE TABLE IF NOT EXISTS journal_fences
(
    fence String
)
ENGINE = MergeTree
ORDER BY fence
-- On the disk before the new writer looks where the journal ends.
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
