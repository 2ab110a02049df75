--[[
  Writes where the journal stands, if the lease of its writer is still ours: whoever has lost it changes nothing any more.

  KEYS[1] lease
  KEYS[2] state
  ARGV[1] holder
  ARGV[2] state, JSON

  Returns 1 when it is written, 0 when another has the lease, or nobody.
]]
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2])
return 1
