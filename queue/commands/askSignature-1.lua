--[[
  Asks the signers for the signature of a checkpoint, if not too many wait already.

  KEYS[1] list of the requests
  ARGV[1] id of the request, which names the key of its reply
  ARGV[2] milliseconds until its deadline
  ARGV[3] most requests that may wait
  ARGV[4] text to be signed

  Returns the entry as it stands in the list, its deadline by this clock; an empty string when the list is full.
]]
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return ''
end
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local entry = string.format('%.0f %s\n%s', deadline, ARGV[1], ARGV[4])
redis.call('RPUSH', KEYS[1], entry)
-- Without signers nobody takes it; an asker that lives removes its own.
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return entry
