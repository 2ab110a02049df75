--[[
  Takes a lease that nobody has, or renews the one that is ours.

  KEYS[1] lease
  ARGV[1] holder
  ARGV[2] length in milliseconds

  Returns 1 when it is ours now, 0 when another has it.
]]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
