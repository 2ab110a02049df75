--[[
  Adds or changes one TSU, if its record is still what the caller read, and tells the journal.
  One command for all of it, so that a state, the new version of the register and the event can never part.

  KEYS[1]  hash of the register: id -> record
  KEYS[2]  version of the register
  KEYS[3]  stream of the register's events for the journal
  KEYS[4]  hash of the keys that are being made: token -> plan
  ARGV[1]  id
  ARGV[2]  record that the caller read; empty: there was none
  ARGV[3]  new record
  ARGV[4]  block of events that tells of the change; empty: nothing to tell
  ARGV[5]  token whose plan this carries out; empty: none
  ARGV[6]  most TSUs the register may hold

  Returns  1 changed, 0 the record is another one by now, -1 the register is full
]]
local current = redis.call('HGET', KEYS[1], ARGV[1])
if (current or '') ~= ARGV[2] then
  return 0
end
if not current and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[6]) then
  return -1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] ~= '' then
  redis.call('HDEL', KEYS[4], ARGV[5])
end
redis.call('INCR', KEYS[2])
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[3], '*', 'b', ARGV[4])
end
return 1
