--[[
  Gives a lease back.

  KEYS[1] lease
  ARGV[1] holder

  Returns 1 when it was ours, 0 when it was not: then it is left alone.
]]
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
