--[[
  Answers one entry of a lane: reply, journal events, counters and acknowledgement together, or nothing of it.

  KEYS[1] requests stream
  KEYS[2] replies stream of the gateway that asked
  KEYS[3] journal stream
  KEYS[4] stamps hash
  ARGV[1] consumer group
  ARGV[2] id of the answered entry
  ARGV[3] number of the entry in its gateway
  ARGV[4] block of answers, which is both the reply and the journal's events
  ARGV[5] milliseconds that the replies stream outlives its last entry
  ARGV[6] client, ARGV[7] stamps granted to it, and so on in pairs

  The journal stream is never trimmed here: only the journal's writer removes entries, once they are durable elsewhere.
  Gateways refuse new work when too many wait.

  Returns 1 when answered, 0 when somebody else had answered before: an entry that was claimed from a signer that only
  seemed dead, or a retry after a connection that broke before the first answer was read.
]]
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
-- The journal first: a script that fails in the middle is not undone, and then nothing was answered.
redis.call('XADD', KEYS[3], '*', 'b', ARGV[4])
redis.call('XADD', KEYS[2], '*', 'n', ARGV[3], 'b', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
for i = 6, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[4], ARGV[i], ARGV[i + 1])
end
return 1
