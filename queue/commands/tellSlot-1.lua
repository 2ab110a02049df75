--[[
  Notes what a signer tells of its slot, with the time of Redis's clock: hosts whose clocks disagree must agree on who is silent.

  KEYS[1]  hash of what is told, by host and slot
  ARGV[1]  field
  ARGV[2]  JSON

  Returns nothing.
]]
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000)) .. ' ' .. ARGV[2])
return nil
