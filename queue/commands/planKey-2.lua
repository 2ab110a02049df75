--[[
  Settles the name of the key that is made next in a token, if nobody has, and the register is still what the caller decided by:
  who looked before another one made the key must not make a second.

  KEYS[1]  hash of the keys that are being made: token -> plan
  KEYS[2]  version of the register
  ARGV[1]  token
  ARGV[2]  plan
  ARGV[3]  version that the caller has seen

  Returns  the plan that holds; an empty string when there is none and the register is another one by now
]]
local plan = redis.call('HGET', KEYS[1], ARGV[1])
if plan then
  return plan
end
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[3] then
  return ''
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
